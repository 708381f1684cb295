"""Score a checkpoint on held-out data: `smol-hf evaluate`.

Read `tasks` (rows → questions), `prompts` and `answering` (questions → answers),
`predictions` (their file), `baselines`, `statistics`, `scoring`, then `run`. The folder `report` writes the page.
"""
