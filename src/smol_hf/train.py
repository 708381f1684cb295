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
from transformers import Trainer
from transformers.utils import logging as transformers_logging

from smol_hf.conversion.merge import locate_base, merge_weights, read_adapter_config
from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.files import UnreachableError
from smol_hf.modeling.bounded_rendering import EndlessTemplateError
from smol_hf.publishing.adapter import publish_adapter
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.publishing.run_facts import origin_facts, run_facts
from smol_hf.training.checkpoints import CheckpointError
from smol_hf.training.console import read_log
from smol_hf.training.interruption import Interrupted, terminable
from smol_hf.training.preference_arguments import PreferenceArguments
from smol_hf.training.recipes import ARGUMENT_CLASSES, RecipeError, ask_for_data, load_arguments
from smol_hf.training.run import Run, train
from smol_hf.training.run_folder import RunError, run_folder
from smol_hf.training.run_record import OF_THE_MODEL
from smol_hf.training.trainer import NonFiniteError

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
HEADING = "keys, with their defaults (and all those of TRL's SFTConfig, such as learning_rate and max_steps):"


def describe_keys(heading: str, classes: tuple[type, ...]) -> str:
    """The help of every key of ours with its default; of the training, without the keys that TRL explains."""
    model_class, data_class, training_class = classes
    of_trl = {entry.name for entry in fields(training_class.__base__)} - {"output_dir"}
    if data_class is PreferenceArguments:
        of_trl.discard("max_length")
    lines = [heading]
    for arguments in classes:
        for entry in fields(arguments):
            if arguments is training_class and entry.name in of_trl:
                continue
            if arguments is model_class and data_class is PreferenceArguments and entry.name not in OF_THE_MODEL:
                continue
            default = "" if entry.default is None or entry.default is MISSING else f" ({entry.default})"
            lines.append(f"  --{entry.name}{default}\n      {entry.metadata.get('help', '')}")
    return "\n".join(lines) + "\n"


def run(command_line: Sequence[str], classes: tuple[type, ...], after: Callable[[Path], None] | None) -> None:
    """Parse, train, publish. Raises one of `USER_ERRORS` for what the user can mend."""
    recipe, *arguments = load_arguments(command_line, classes)
    ask_for_data(recipe, classes)

    def finish(run: Run, trainer: Trainer) -> None:
        folder = publish(trainer, run.output_dir, run.model_arguments.dtype)
        if after is not None:
            after(folder)
        if (result := run.task.result(trainer)) is not None:
            sys.stdout.write(json.dumps(result) + "\n")

    with run_folder(Path(arguments[-1].output_dir)):
        train(recipe, *arguments, publish=finish)


def publish(trainer: Trainer, output_dir: Path, dtype: str) -> Path:
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


def run_command(
    usage: str,
    heading: str,
    classes: tuple[type, ...],
    command_line: Sequence[str] | None,
    after: Callable[[Path], None] | None = None,
) -> int:
    """Print the help, or run. What libraries tell each other stays silent, and a mistake of the user is one line.

    Args:
        usage, heading: what the help says before the keys.
        classes: the dataclasses of the model, of the data and of the training.
        after: called with the folder of the result.
    """
    command_line = sys.argv[1:] if command_line is None else list(command_line)
    if not command_line or "--help" in command_line or "-h" in command_line:
        sys.stdout.write(f"{usage}\n{describe_keys(heading, classes)}")
        return 0
    # Bars and deprecations of libraries would drown what this run has to say.
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a faster kernel that it did not find
    try:
        with terminable():
            run(command_line, classes, after)
    except USER_ERRORS as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt as error:
        if PartialState().is_main_process:
            sys.stderr.write(f"{error or 'interrupted: nothing was trained'}\n")
        return error.code if isinstance(error, Interrupted) else 130
    return 0


def main(command_line: Sequence[str] | None = None, after: Callable[[Path], None] | None = None) -> int:
    return run_command(USAGE, HEADING, ARGUMENT_CLASSES, command_line, after)


if __name__ == "__main__":
    sys.exit(main())
