"""Convert, merge, compose and check checkpoints.

Read `convert`, `single_file` (nanoGPT, GGUF) and `merge`; `composition/` joins models, `checking/` checks folders.
"""
