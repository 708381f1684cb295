"""Helpers that every package but `modeling` may use. They import nothing else of smol_hf."""
