"""Generate text with a checkpoint. Read `prompts`, `answering`, `generation`, then `run` and `chat`."""
