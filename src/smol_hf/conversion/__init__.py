"""Convert, merge, compose and check checkpoints.

Read `convert` and `merge`; `composition/` joins models, `checking/` checks folders.
"""
