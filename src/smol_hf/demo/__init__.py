"""The demo `smol-hf demo`: train a tiny model on embedded digits, score it, and write a report.

Read `run` first (the three steps), then `isolated_load` (the process that answers without this package), `exact_match`
(the score), `report` and `charts` (the page).
"""
