"""Scores of answers against references. Read `scores`; `vqa_text` has the text rules of one benchmark."""
