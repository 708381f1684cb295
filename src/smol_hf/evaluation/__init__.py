"""Score a checkpoint on held-out data: `smol-hf evaluate`.

Read `metrics` (with `vqa_text`), `tasks` (rows → questions), `prompts` and `answering` (questions → answers),
`predictions` (their file), `baselines`, `statistics`, `scoring`, then `run`. The folder `report` writes the page.
"""
