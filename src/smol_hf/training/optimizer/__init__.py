"""The optimizer of a run: `choice` finds its class and options, and builds it; `muon` is Muon with AdamW."""
