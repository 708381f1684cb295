"""Score a checkpoint on held-out data and on published benchmarks: `smol-hf evaluate`.

Read `tasks` (rows → questions), `prompts` and `answering` (questions → answers), `predictions` (their file),
`baselines`, `statistics`, `scoring`, then `run`. `report/` writes the page. `benchmarks/` runs published benchmarks
with lmms-eval and lm-evaluation-harness.
"""
