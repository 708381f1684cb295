"""Generate text with a checkpoint. Read `prompts`, `media`, `answering`, `generation`, then `run` and `chat`."""
