"""The demo `smol-hf demo`: train a tiny model on embedded digits, score it, and write a report.

Read `run` first (the three steps), then `video` (`--video`: clips of moving digits, in three stages), `asking` and
`isolated_load` (the process that answers without this package), `report` (the score, and the page of `evaluation`) and
`held_out` (the held-out questions as rows for `smol-hf evaluate`).
"""
