"""`accelerate launch -m smol_hf.dpo --config recipes/text/dpo_135m.yaml [--key value …]`: learn from preferences, then
publish the result.

The finished model is in `<output_dir>/checkpoint/`, a folder that anyone loads with transformers alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from accelerate import PartialState
from trl import DPOConfig

from smol_hf.train import publish, run_main
from smol_hf.training.preference import ARGUMENT_CLASSES, OF_THE_MODEL, train
from smol_hf.training.preference_arguments import DPOArguments
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


def describe_keys() -> str:
    """Every key of ours with its default and meaning."""
    lines = ["keys, with their defaults (all those of TRL's DPOConfig, such as beta, and those of LoRA):"]
    inherited = {entry.name for entry in fields(DPOConfig)} - {"output_dir", "max_length"}
    for arguments in ARGUMENT_CLASSES:
        for entry in fields(arguments):
            if arguments is ARGUMENT_CLASSES[0] and entry.name not in OF_THE_MODEL and "lora" not in entry.name:
                continue
            if arguments is not DPOArguments or entry.name not in inherited:
                default = "" if entry.default in (None, MISSING) else f" ({entry.default})"
                lines.append(f"  --{entry.name}{default}\n      {entry.metadata.get('help', '')}")
    return "\n".join(lines) + "\n"


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
    return run_main(run, lambda: f"{USAGE}\n{describe_keys()}", command_line)


if __name__ == "__main__":
    sys.exit(main())
