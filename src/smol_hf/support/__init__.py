"""Helpers for every package but `modeling` and `processing`. They import nothing else of smol_hf.

Read `atomic` and `formatting` first; they are used most.
"""
