"""Training with TRL. Read `run`, then `data`, `trainer` and `loader`.

`recipe/` holds the keys of a recipe, `model/` builds the model, `optimizer/` its optimizer. `checkpoint/` saves and
resumes, `log/` reports.
"""
