"""Validation during a run: held-out samples, their loss, scores of generated answers, early stopping.

Read `held_out`, then `measure`, `answers` and `early_stopping`.
"""
