"""Published benchmarks, run by lmms-eval (images, videos) and lm-evaluation-harness (text) in isolated environments.

Reading order: `suite` lists the benchmarks, `published` the scores of known models. `run` evaluates a checkpoint with
the interpreter that `environment` prepares, `results` reads the files, `failures` explains a failed run, and `report`
prints the scores.
`lmms_eval_model` and `lm_eval_launch` run inside those environments.
"""
