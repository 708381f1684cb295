"""A chain of runs: the result of each stage is the model of the next, and a finished stage is skipped.

The folder of the last stage gets `stages.json`, the report of the chain.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from rich.console import Console
from rich.table import Column, Table

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import UnreachableError
from smol_hf.processing.chat_rendering import EndlessTemplateError
from smol_hf.support.formatting import compact, duration
from smol_hf.support.tables import print_table
from smol_hf.training.checkpoint.checkpoints import CheckpointError, list_checkpoints
from smol_hf.training.checkpoint.interruption import RESUME, Interrupted
from smol_hf.training.checkpoint.run_folder import RunError, run_folder
from smol_hf.training.checkpoint.same_run import ROWS, rows_of_a_step
from smol_hf.training.checkpoint.stage_record import Stage, refuse_lost_stages, state_of, write_record
from smol_hf.training.data import check_lanes
from smol_hf.training.log.console import read_log
from smol_hf.training.log.processes import in_main_process
from smol_hf.training.log.skipped_steps import NonFiniteError
from smol_hf.training.recipe.inherited_checks import settle_global_batch
from smol_hf.training.recipe.inherited_keys import key_of
from smol_hf.training.recipe.keys import OnResume, own_keys
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import (
    ARGUMENT_CLASSES,
    ask_for_data,
    load_arguments,
    parse_command_line,
    read_recipe,
)
from smol_hf.training.recipe.values import RecipeError, UsageError
from smol_hf.training.run import refuse_model_in_the_way

REPORT = "stages.json"
OF_THE_USER = (
    RecipeError, SampleError, CheckpointError, NonFiniteError, FileNotFoundError, UnreachableError,
    EndlessTemplateError,
)  # fmt: skip
NEW_MODEL = {entry.name for entry, key in own_keys(ModelArguments) if "model" in key.excluded_by}
OF_ONE_STAGE = NEW_MODEL | {
    "output_dir", "model", "resume_from_checkpoint", "data", "mixture", "documents", "validation_documents",
}  # fmt: skip
POLICIES = {entry.name: key_of(entry).resume for each in ARGUMENT_CLASSES for entry in fields(each)}


def read_stage(title: str, words: list[str], processes: int | None) -> Stage:
    """Read one recipe of a chain. Raises RecipeError, naming the stage."""
    with naming(title):
        recipe, _, data, training = load_arguments(words)
        ask_for_data(recipe)
        processes = processes or PartialState().num_processes
        settle_global_batch(recipe, training, processes)
        check_lanes(data.data_lanes, training, processes)
    compared = {name: value for name, value in recipe.items() if POLICIES[name] not in (OnResume.FREE, OnResume.ROWS)}
    values = json.loads(json.dumps(compared, default=str)) | {ROWS: rows_of_a_step(training)}
    return Stage(title, words, recipe, values, Path(str(training.output_dir)))


def read_stages(names: Sequence[str], words: Sequence[str], processes: int | None = None) -> list[Stage]:
    """Read the recipes of a chain, and pass the result of each to the next, unless that names a model.

    Args:
        words: keys of the command line, for all stages.
        processes: of the runs (default: the number of these processes).

    Raises:
        RecipeError: for a recipe that cannot be used, two stages with one folder, and keys of a single stage.
    """
    config, overrides = parse_command_line(words)
    if config is not None:
        raise UsageError("--config and --stages exclude each other: name the recipe among the stages")
    for key in overrides:
        if key.partition(".")[0] in OF_ONE_STAGE:
            raise UsageError(f"--{key} would apply to all stages, and each needs its own: set it in the recipes")
    stages: list[Stage] = []
    for number, name in enumerate(names, start=1):
        own = ["--config", name, *words]
        if stages and all(read_recipe(name).get(key) is None for key in ("model", *NEW_MODEL)):
            own += ["--model", str(stages[-1].result)]
        stage = read_stage(f"stage {number} of {len(names)} ({name})", own, processes)
        for other in stages:
            one, two = other.output_dir.resolve(), stage.output_dir.resolve()
            if one == two or one in two.parents or two in one.parents:
                raise RecipeError(
                    f"{stage.title}: its output_dir {stage.output_dir} is that of {other.title}, or one is inside the "
                    "other: give each stage its own"
                )
        if not any(stage.begins_in(other.output_dir) for other in stages):
            with naming(stage.title):
                refuse_model_in_the_way(stage.recipe.get("model"), stage.output_dir)
        stages.append(stage)
    return stages


def run_stages(names: Sequence[str], words: Sequence[str], train_one: Callable[..., None]) -> None:
    """Train the unfinished stages of a chain one after another, and write the report.

    Args:
        train_one: called with the recipe and the arguments of a stage; trains it and writes its result.

    Raises:
        RecipeError, CheckpointError: also for a finished stage whose recipe, data, model or result has changed.
        Interrupted, RunError: the message says how the chain continues.
    """
    stages, skipped, state = read_stages(names, words), [], PartialState()
    console = Console(highlight=False, markup=False, quiet=not state.is_main_process)
    in_main_process(refuse_lost_stages, stages)
    for number, stage in enumerate(stages):
        with continued_by_the_same_command(stage), naming(stage.title):
            if words_of_it := in_main_process(state_of, stage):
                console.print(f"{stage.title} {words_of_it}", soft_wrap=True)
                skipped.append(stage)
                continue
            console.print(stage.title, soft_wrap=True)
            if stages[:number] and not stage.begins_in(stages[number - 1].output_dir):
                model = stage.recipe.get("model") or "a new model"
                console.print(f"it begins with {model}, not with the result of the stage before", soft_wrap=True)
            if warning := trained_before(stages[:number], stage):
                console.print(warning, soft_wrap=True)
            with run_folder(stage.output_dir):
                in_main_process(write_record, stage)
            recipe, *arguments = load_arguments(stage.words)
            if list_checkpoints(stage.output_dir):
                arguments[-1].resume_from_checkpoint = "true"
            train_one(recipe, *arguments)
            state.wait_for_everyone()
            with run_folder(stage.output_dir):
                in_main_process(write_record, stage, True)
            clear_device_cache(garbage_collection=True)
    with continued_by_the_same_command(stages[-1]), run_folder(stages[-1].output_dir):
        rows = in_main_process(write_report, names, stages, skipped)
    print_table(console, report_table(rows))
    console.print(f"the report is in {stages[-1].output_dir / REPORT}", soft_wrap=True)


def write_report(names: Sequence[str], stages: list[Stage], skipped: list[Stage]) -> list[dict[str, Any]]:
    """Write the report of the chain into the folder of its last stage. Returns its rows."""
    rows = [
        {"stage": number, "recipe": name, "skipped": stage in skipped, **facts_of(stage.output_dir)}
        for number, (name, stage) in enumerate(zip(names, stages), start=1)
    ]
    (stages[-1].output_dir / REPORT).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def facts_of(output_dir: Path) -> dict[str, Any]:
    """Return the numbers of a finished stage, from the records of its run."""
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    last: dict[str, Any] = {}
    for entry in read_log(output_dir):
        last |= entry
    return {
        "steps": run["steps"],
        "samples": last.get("total_samples"),
        "tokens": last.get("total_tokens"),
        "seconds": run["train_seconds"],
        "resumed_at_step": run["resumed_at_step"],
        "loss": last.get("loss"),
        "checkpoint": str(output_dir / "checkpoint"),
    }


def report_table(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each stage. A time since a step is that of the last session."""
    numbers = (Column(name, justify="right") for name in ("steps", "samples", "tokens", "time", "last loss"))
    table = Table("", "stage", *numbers, Column("checkpoint", overflow="fold"))
    for row in rows:
        since = f" since step {row['resumed_at_step']:,}" if row["resumed_at_step"] else ""
        cells = [compact(row[name]) if row[name] is not None else "–" for name in ("samples", "tokens")]
        loss = f"{row['loss']:.4f}" if row["loss"] is not None else "–"
        name = f"{row['recipe']}{', skipped' if row['skipped'] else ''}"
        time = f"{duration(row['seconds'])}{since}"
        table.add_row(str(row["stage"]), name, f"{row['steps']:,}", *cells, time, loss, row["checkpoint"])
    return table


def trained_before(earlier: Sequence[Stage], stage: Stage) -> str:
    """Return a warning if the stage validates on samples that an earlier stage trained on, or an empty text."""
    fraction = stage.recipe.get("eval_fraction") or 0.0
    for other in earlier:
        same = sorted(sources_of(other.recipe) & sources_of(stage.recipe))
        if same and (other.recipe.get("eval_fraction") or 0.0) < fraction:
            return (
                f"warning: {other.title} trained on some samples of {', '.join(same)} that eval_fraction {fraction} "
                "holds out here: give both stages the same eval_fraction"
            )
    return ""


def sources_of(recipe: dict[str, Any]) -> set[str]:
    """Return the data that a recipe names."""
    names = [recipe.get("data"), *(entry.get("data") for entry in recipe.get("mixture") or [])]
    return {name for name in names if isinstance(name, str)}


@contextmanager
def naming(title: str) -> Iterator[None]:
    """Begin each error that a user can mend with the title of the stage."""
    try:
        yield
    except OF_THE_USER as error:
        if str(error).startswith(title):
            raise
        kind = UsageError if isinstance(error, UsageError) else RecipeError
        raise kind(f"{title}: {error}") from error


@contextmanager
def continued_by_the_same_command(stage: Stage) -> Iterator[None]:
    """Say in messages about the end of a run that the same command continues the chain."""
    remedy = "the same command continues the chain"
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        message = str(error).replace(RESUME, remedy) or f"{signal.Signals(number).name}: {remedy}"
        agreed = isinstance(error, Interrupted) and error.agreed
        raise Interrupted(number, f"{stage.title}: {message}", agreed) from error
    except RunError as error:
        error.args = (f"{stage.title}: {str(error).replace(RESUME, remedy)}",)
        raise
