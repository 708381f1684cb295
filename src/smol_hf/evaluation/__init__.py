"""Scores of checkpoints on local data and on published benchmarks.

`benchmarks/` runs published benchmarks with lmms-eval and lm-evaluation-harness.
"""
