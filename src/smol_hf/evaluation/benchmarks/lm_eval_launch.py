"""Start lm-evaluation-harness with our models registered, so that no code of a checkpoint runs.

It runs in lm-eval's environment.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

import smol_hf.auto  # noqa: F401

if __name__ == "__main__":
    cli_evaluate()
