"""Score a checkpoint on held-out data: `smol-hf evaluate`.

Read `metrics` with `vqa_text`.
"""
