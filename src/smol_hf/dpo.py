"""`accelerate launch -m smol_hf.dpo --config recipes/text/dpo_135m.yaml [--key value …]`: learn from preferences, then
publish the result.

The finished model is in `<output_dir>/checkpoint/`, a folder that anyone loads with transformers alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from smol_hf.train import run_command
from smol_hf.training.preference import ARGUMENT_CLASSES

USAGE = """usage: smol-hf dpo [--config RECIPE.yaml] [--key value …]

Trains a language model on preferences (DPO); every key of the recipe can be set on the command line.

examples:
  smol-hf dpo --config recipes/text/dpo_135m.yaml
  smol-hf dpo --model runs/chat/checkpoint --data preferences.jsonl --output_dir runs/dpo
  accelerate launch --num_processes 2 -m smol_hf.dpo --config recipes/text/dpo_135m.yaml
"""
HEADING = "keys, with their defaults (all those of TRL's DPOConfig, such as beta, and those of LoRA):"


def main(command_line: Sequence[str] | None = None) -> int:
    return run_command(USAGE, HEADING, ARGUMENT_CLASSES, command_line)


if __name__ == "__main__":
    sys.exit(main())
