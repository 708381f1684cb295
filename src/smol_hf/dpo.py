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
from smol_hf.training.preference import ARGUMENT_CLASSES, train
from smol_hf.training.recipes import RecipeError, load_arguments
from smol_hf.training.run_folder import run_folder

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
    return run_main(run, "dpo", command_line)


if __name__ == "__main__":
    sys.exit(main())
