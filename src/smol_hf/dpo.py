"""`accelerate launch -m smol_hf.dpo --config recipes/text/dpo_135m.yaml [--key value …]`: learn from preferences, then
publish the result.

The finished model is in `<output_dir>/checkpoint/`, a folder that anyone loads with transformers alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from smol_hf.train import publish, run_main
from smol_hf.training.key_table import describe_keys
from smol_hf.training.keys import Runs
from smol_hf.training.preference import ARGUMENT_CLASSES, train
from smol_hf.training.recipes import RecipeError, load_arguments
from smol_hf.training.run_folder import run_folder

USAGE = """usage: smol-hf dpo [--config RECIPE.yaml] [--key value …]

Trains a language model on preferences (DPO); every key of the recipe can be set on the command line.

examples:
  smol-hf dpo --config recipes/text/dpo_135m.yaml
  smol-hf dpo --model runs/chat/checkpoint --data preferences.jsonl --output_dir runs/dpo
  accelerate launch --num_processes 2 -m smol_hf.dpo --config recipes/text/dpo_135m.yaml
"""
METRICS = ("loss", "rewards/margins", "rewards/accuracies")


def run(command_line: Sequence[str]) -> None:
    recipe, model_arguments, data_arguments, arguments = load_arguments(command_line, ARGUMENT_CLASSES)
    if "data" not in recipe:
        raise RecipeError("data is missing: name preferences, a file, a folder or a dataset of the Hub")
    output_dir = Path(arguments.output_dir)
    with run_folder(output_dir):
        trainer = train(recipe, model_arguments, data_arguments, arguments)
        trainer.accelerator.wait_for_everyone()
        if PartialState().is_main_process:
            publish(trainer, output_dir, model_arguments.dtype)
            logged = [entry for entry in trainer.state.log_history if "loss" in entry]
            result = {name: logged[-1][name] for name in METRICS} if logged else {}
            result |= {"steps": trainer.state.global_step, "checkpoint": str(output_dir / "checkpoint")}
            sys.stdout.write(json.dumps(result) + "\n")


def main(command_line: Sequence[str] | None = None) -> int:
    return run_main(run, lambda: f"{USAGE}\n{describe_keys(ARGUMENT_CLASSES, Runs.PREFERENCES)}", command_line)


if __name__ == "__main__":
    sys.exit(main())
