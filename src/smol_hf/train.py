"""`accelerate launch -m smol_hf.train --config recipes/….yaml [--key value …]`: train, then publish the result.

The finished model is in `<output_dir>/checkpoint/`, a folder that anyone loads with transformers alone.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path

import yaml
from accelerate import PartialState
from peft import PeftModel
from rich.console import Console
from transformers.utils import logging as transformers_logging
from trl import SFTConfig

from smol_hf.conversion.merge import locate_base, merge_weights, read_adapter_config
from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.files import UnreachableError
from smol_hf.processing.bounded_rendering import EndlessTemplateError
from smol_hf.publishing.adapter import publish_adapter
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.publishing.run_facts import origin_facts, run_facts
from smol_hf.training.checkpoints import CheckpointError
from smol_hf.training.console import read_log
from smol_hf.training.interruption import Interrupted, terminable
from smol_hf.training.recipes import ARGUMENT_CLASSES, RecipeError, ask_for_data, load_arguments
from smol_hf.training.run import train
from smol_hf.training.run_folder import RunError, run_folder
from smol_hf.training.trainer import NonFiniteError, SmolTrainer

USER_ERRORS = (
    RecipeError, SampleError, CheckpointError, NonFiniteError, RunError, FileNotFoundError, UnreachableError,
    EndlessTemplateError,
)  # fmt: skip

USAGE = """usage: smol-hf train [--config RECIPE.yaml] [--key value …]

Trains a model from a recipe; every key of the recipe can be set on the command line, keys of mappings with a dot.
RECIPE.yaml is a file, or the name of a recipe of the package (smol-hf recipes list).

examples:
  smol-hf train --config quickstart/digits
  smol-hf train --config quickstart/digits --max_steps 20 --text_config.num_hidden_layers 3
  smol-hf train --model runs/demo/checkpoint --data my.jsonl --output_dir runs/mine
  accelerate launch --num_processes 2 -m smol_hf.train --config recipes/quickstart/digits.yaml
"""


def describe_keys() -> str:
    """Every key of ours with its default and meaning."""
    lines = ["keys, with their defaults (and all those of TRL's SFTConfig, such as learning_rate and max_steps):"]
    inherited = {entry.name for entry in fields(SFTConfig)}
    for arguments in ARGUMENT_CLASSES:
        for entry in fields(arguments):
            if arguments is not ARGUMENT_CLASSES[-1] or entry.name not in inherited or entry.name == "output_dir":
                default = "" if entry.default is None or entry.default is MISSING else f" ({entry.default})"
                lines.append(f"  --{entry.name}{default}\n      {entry.metadata.get('help', '')}")
    return "\n".join(lines) + "\n"


def run(command_line: Sequence[str], after: Callable[[Path], None] | None = None) -> None:
    """Parse, train, publish; `after` gets the folder of the result. Raises what the user can mend as one of
    `USER_ERRORS`."""
    recipe, model_arguments, data_arguments, arguments = load_arguments(command_line)
    ask_for_data(recipe)
    output_dir = Path(arguments.output_dir)
    with run_folder(output_dir):
        trainer = train(recipe, model_arguments, data_arguments, arguments)
        if trainer.state.global_step == 0:
            raise RecipeError("no step was trained: there is nothing to publish")
        trainer.accelerator.wait_for_everyone()
        if PartialState().is_main_process:
            folder = publish(trainer, output_dir, model_arguments.dtype)
            if after is not None:
                after(folder)
            if data_arguments.documents is not None:
                sys.stdout.write(json.dumps(result_of(trainer)) + "\n")


def result_of(trainer: SmolTrainer) -> dict:
    """What a run over documents ends with, one line for programs."""
    run, validated = trainer.run_state, trainer.validated or {}
    return {
        "validation_loss": validated.get("loss"),
        "perplexity": validated.get("perplexity"),
        "bits_per_byte": validated.get("bits_per_byte"),
        "tokens_per_second": run["tokens_per_second"] and round(run["tokens_per_second"], 1),
        "parameters": sum(run["parameters"].values()),
        "steps": run["steps"],
        "seconds": round(run["train_seconds"], 2),
        "checkpoint": str(Path(trainer.args.output_dir) / "checkpoint"),
    }


def publish(trainer: SmolTrainer, output_dir: Path, dtype: str) -> Path:
    """Write `checkpoint/`; of a run with adapters also `adapter/`, which the checkpoint holds merged."""
    console = Console(highlight=False, markup=False)
    model = trainer.accelerator.unwrap_model(trainer.model)
    generation_config = model.generation_config
    facts = {
        "recipe": yaml.safe_load((output_dir / "recipe.yaml").read_text(encoding="utf-8")),
        "versions": trainer.run_state["versions"],
    }
    facts |= run_facts(output_dir, facts["recipe"])
    if isinstance(model, PeftModel):
        adapter = publish_adapter(output_dir / "adapter", model, trainer.processing_class, **facts)
        console.print(f"the adapter is in {adapter}", soft_wrap=True)
        config = read_adapter_config(adapter)
        model = merge_weights(locate_base(config, None, {}), adapter, config, dtype)
        model.generation_config = generation_config  # the base's own need not end with a turn
        facts |= origin_facts(facts["recipe"]) | {"base_models": config.base_model_name_or_path}
    else:
        facts |= origin_facts(facts["recipe"])
    log = read_log(output_dir)
    folder = publish_checkpoint(output_dir / "checkpoint", model, trainer.processing_class, log=log, **facts)
    console.print(f"the trained model is in {folder}", soft_wrap=True)
    return folder


def run_main(
    run: Callable[[Sequence[str]], None], usage: Callable[[], str], command_line: Sequence[str] | None
) -> int:
    """A command that trains: its help, what libraries keep to themselves, and errors that the user can mend."""
    command_line = sys.argv[1:] if command_line is None else list(command_line)
    if not command_line or "--help" in command_line or "-h" in command_line:
        sys.stdout.write(usage())
        return 0
    # Bars and deprecations of libraries would drown what this run has to say.
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a faster kernel that it did not find
    try:
        with terminable():
            run(command_line)
    except USER_ERRORS as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt as error:
        if PartialState().is_main_process:
            sys.stderr.write(f"{error or 'interrupted: nothing was trained'}\n")
        return error.code if isinstance(error, Interrupted) else 130
    return 0


def main(command_line: Sequence[str] | None = None, after: Callable[[Path], None] | None = None) -> int:
    return run_main(lambda words: run(words, after), lambda: f"{USAGE}\n{describe_keys()}", command_line)


if __name__ == "__main__":
    sys.exit(main())
