"""Checkpoints of other formats.

Read `convert` and `merge`; `composition/` joins models, `checking/` verifies folders.
"""
