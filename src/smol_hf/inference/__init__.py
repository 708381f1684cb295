"""A checkpoint and prompts → answers. Read `prompts`, `answering`, `generation`, then `run` and `chat`."""
