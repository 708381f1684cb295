"""`accelerate launch -m smol_hf.train --config recipes/….yaml [--key value …]`: train, then write the checkpoint.

`<output_dir>/checkpoint/` loads with transformers, without this package.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from accelerate import PartialState
from peft import PeftModel
from rich.console import Console
from transformers import Trainer
from transformers.utils import logging as transformers_logging

from smol_hf.conversion.merge import locate_base, merge_weights, read_adapter_config
from smol_hf.estimate.dry_run import dry_run
from smol_hf.estimate.memory_report import report_memory
from smol_hf.publishing.checkpoint import publish_adapter, publish_checkpoint
from smol_hf.publishing.run_facts import origin_facts, run_facts
from smol_hf.training.checkpoint.interruption import SIGNALS, Interrupted, handling, terminable, words_of
from smol_hf.training.checkpoint.run_folder import OutOfMemoryError, RunError, run_folder
from smol_hf.training.log.console import read_log
from smol_hf.training.log.processes import refuse_lone_processes
from smol_hf.training.model.plain_model import Tensors
from smol_hf.training.recipe.key_help import USAGES, add_dry_run, add_stages, help_text
from smol_hf.training.recipe.recipes import ARGUMENT_CLASSES, ask_for_data, load_arguments
from smol_hf.training.recipe.values import UsageError
from smol_hf.training.run import Run, train
from smol_hf.training.stages import OF_THE_USER, run_stages

USER_ERRORS = (*OF_THE_USER, RunError)


def run(command_line: Sequence[str], classes: tuple[type, ...], after: Callable[[Path], None] | None) -> None:
    """Parse, train and write the checkpoint. Raises one of `USER_ERRORS` for a mistake of the user."""
    options, words = split_options(command_line, with_stages=classes == ARGUMENT_CLASSES)
    if options.dry_run:
        dry_run(options.stages, words, classes, options.num_processes, options.tflops)
    elif options.num_processes is not None or options.tflops is not None:
        raise UsageError("--num-processes and --tflops belong to --dry-run")
    elif options.stages is not None:
        run_stages(options.stages, words, run_one)
    else:
        recipe, *arguments = load_arguments(words, classes)
        ask_for_data(recipe, classes)
        run_one(recipe, *arguments, after=after)


def split_options(command_line: Sequence[str], with_stages: bool) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that are not keys of a recipe, and the other words. Raises UsageError."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.set_defaults(stages=None)
    if with_stages:
        add_stages(parser)
    add_dry_run(parser)
    known = {option.replace("-", "_"): option for option in parser._option_string_actions}
    words = []
    for word in command_line:
        name, equals, value = word.partition("=")
        words.append(known.get(name.replace("-", "_"), name) + equals + value)
    try:
        return parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error


def run_one(recipe, *arguments, after: Callable[[Path], None] | None = None) -> None:
    """Train one recipe and write its checkpoint."""

    def finish(run: Run, trainer: Trainer, model, tensors: Tensors | None) -> None:
        folder = write_result(run, trainer, model, tensors)
        if after is not None:
            after(folder)
        if (result := run.result(trainer)) is not None:
            rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
            sys.stdout.write(json.dumps(rounded) + "\n")

    refuse_lone_processes()
    try:
        with run_folder(Path(arguments[-1].output_dir)):
            train(recipe, *arguments, publish=finish)
    except OutOfMemoryError as error:
        if PartialState().is_main_process:
            error.report = functools.partial(report_memory, recipe, *arguments)
        raise


def write_result(run: Run, trainer: Trainer, model, tensors: Tensors | None) -> Path:
    """Write `checkpoint/`; with adapters also `adapter/`, which is merged into the checkpoint.

    Args:
        model, tensors: see `gather_model`.
    """
    console = Console(highlight=False, markup=False)
    output_dir = run.output_dir
    generation_config = model.generation_config
    facts = {
        "recipe": yaml.safe_load((output_dir / "recipe.yaml").read_text(encoding="utf-8")),
        "versions": run.run_state["versions"],
    }
    facts |= run_facts(output_dir, facts["recipe"])
    if isinstance(model, PeftModel):
        adapter = publish_adapter(output_dir / "adapter", model, trainer.processing_class, tensors=tensors, **facts)
        console.print(f"the adapter is in {adapter}", soft_wrap=True)
        config = read_adapter_config(adapter)
        model = merge_weights(locate_base(config, None, {}), adapter, config, run.model_arguments.dtype)
        model.generation_config = generation_config  # the base's may not end an answer with its turn
        facts["base_models"] = config.base_model_name_or_path
    facts = origin_facts(facts["recipe"]) | facts
    log = read_log(output_dir)
    folder = publish_checkpoint(output_dir / "checkpoint", model, trainer.processing_class, log=log, **facts)
    console.print(f"the trained model is in {folder}", soft_wrap=True)
    return folder


def run_command(
    command: str,
    classes: tuple[type, ...],
    command_line: Sequence[str] | None,
    after: Callable[[Path], None] | None = None,
    usage: str = "",
) -> int:
    """Print the help, or run. A mistake of the user is printed in one line.

    Args:
        command: `train` or `dpo`, for the help.
        classes: the dataclasses of the model, the data and the training.
        after: called with the folder of the result.
        usage: printed before a mistake in the command line (default: the usage of `command`).
    """
    command_line = sys.argv[1:] if command_line is None else list(command_line)
    if not command_line or "--help" in command_line or "-h" in command_line:
        sys.stdout.write(help_text(command))
        return 0
    # Progress bars and deprecation warnings of libraries would hide the messages of the run.
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a missing faster kernel
    report = None
    try:
        with terminable():
            run(command_line, classes, after)
        return 0
    except USER_ERRORS as error:
        shown = (usage or f"usage: {USAGES[command]}\n") if isinstance(error, UsageError) else ""
        message, code = f"{shown}error: {error}\n", 1
        report = getattr(error, "report", None)
    except KeyboardInterrupt as error:
        message = words_of(error)
        code = error.code if isinstance(error, Interrupted) else 130
    with handling(SIGNALS, signal.SIG_IGN):  # a launcher signals a process that is ending
        sys.stderr.write(message)
        sys.stderr.flush()
        if report is not None:  # it takes a while
            gc.collect()
            sys.stderr.write(f"{report()}\n")
    return code


def main(
    command_line: Sequence[str] | None = None, after: Callable[[Path], None] | None = None, usage: str = ""
) -> int:
    return run_command("train", ARGUMENT_CLASSES, command_line, after, usage)


if __name__ == "__main__":
    sys.exit(main())
