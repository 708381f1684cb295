"""A chain of runs: the result of each stage is the model of the next, and a finished stage is skipped.

The folder of a stage has `stage.json`: its recipe, and the hashes of the model that it began with and of its result.
The folder of the last stage gets `stages.json`, the report of the chain.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import clear_device_cache
from rich.console import Console

from smol_hf.support.atomic import atomic_file
from smol_hf.support.hashing import hash_file
from smol_hf.support.tables import print_table
from smol_hf.training.checkpoint.checkpoints import CheckpointError, list_checkpoints
from smol_hf.training.checkpoint.interruption import RESUME, Interrupted
from smol_hf.training.checkpoint.run_folder import RunError
from smol_hf.training.checkpoint.same_run import OF_THE_PROCESSOR, OF_THE_WEIGHTS, ROWS, paths_in, rows_of_a_step
from smol_hf.training.log.stage_report import facts_of, report_table
from smol_hf.training.recipe.arguments import settle_global_batch
from smol_hf.training.recipe.inherited_keys import key_of
from smol_hf.training.recipe.keys import OnResume, own_keys
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import (
    ARGUMENT_CLASSES,
    LONGEST_SHOWN,
    ask_for_data,
    load_arguments,
    parse_command_line,
    read_recipe,
)
from smol_hf.training.recipe.values import RecipeError, UsageError
from smol_hf.training.run import is_finished, result_of

RECORD, REPORT = "stage.json", "stages.json"
OF_THE_MODEL = ("config.json", *OF_THE_PROCESSOR, *OF_THE_WEIGHTS)
NEW_MODEL = {entry.name for entry, key in own_keys(ModelArguments) if "model" in key.excluded_by}
OF_ONE_STAGE = NEW_MODEL | {
    "output_dir", "model", "resume_from_checkpoint", "data", "mixture", "documents", "validation_documents",
}  # fmt: skip
POLICIES = {entry.name: key_of(entry).resume for each in ARGUMENT_CLASSES for entry in fields(each)}


@dataclass
class Stage:
    """One run of a chain.

    Attributes:
        words: its command line.
        values: the given values that decide about its result.
    """

    title: str
    words: list[str]
    recipe: dict[str, Any]
    values: dict[str, Any]
    output_dir: Path

    @property
    def result(self) -> Path:
        return self.output_dir / "checkpoint"

    def model_contents(self) -> dict[str, str]:
        model = self.recipe.get("model")
        return {} if model is None else contents(result_of(model))


def read_stage(title: str, words: list[str], processes: int | None) -> Stage:
    """Read one recipe of a chain. Raises RecipeError, naming the stage."""
    try:
        recipe, *_, training = load_arguments(words)
        ask_for_data(recipe)
        settle_global_batch(recipe, training, processes or PartialState().num_processes)
    except RecipeError as error:
        raise type(error)(f"{title}: {error}") from error
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
        stages.append(stage)
    return stages


def run_stages(names: Sequence[str], words: Sequence[str], train_one: Callable[..., None]) -> None:
    """Train the unfinished stages of a chain one after another, and write the report.

    Args:
        train_one: called with the recipe and the arguments of a stage; trains it and writes its result.

    Raises:
        RecipeError, CheckpointError: also for a finished stage whose recipe, model or result has changed.
        Interrupted, RunError: the message says how the chain continues.
    """
    stages, skipped, state = read_stages(names, words), [], PartialState()
    console = Console(highlight=False, markup=False, quiet=not state.is_main_process)
    for stage in stages:
        with continued_by_the_same_command(stage.title):
            if in_main_process(is_done, stage):
                console.print(f"{stage.title} is finished: skipped", soft_wrap=True)
                skipped.append(stage)
                continue
            console.print(stage.title, soft_wrap=True)
            in_main_process(write_record, stage)
            recipe, *arguments = load_arguments(stage.words)
            if list_checkpoints(stage.output_dir):
                arguments[-1].resume_from_checkpoint = "true"
            train_one(recipe, *arguments)
            state.wait_for_everyone()
            in_main_process(write_record, stage, True)
            clear_device_cache(garbage_collection=True)
    if state.is_main_process:
        rows = [
            {"stage": number, "recipe": name, "skipped": stage in skipped, **facts_of(stage.output_dir)}
            for number, (name, stage) in enumerate(zip(names, stages), start=1)
        ]
        path = stages[-1].output_dir / REPORT
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print_table(console, report_table(rows))
        console.print(f"the report is in {path}", soft_wrap=True)


def in_main_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in the main process. All processes get its result, or raise its error."""
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = function(*arguments)
        except (RecipeError, CheckpointError, OSError, ValueError) as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a stage; empty if the stage has not begun. Raises CheckpointError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(record[name], dict) for name in ("recipe", "model", *record)):
            return record
    except (ValueError, TypeError, KeyError):
        pass
    raise CheckpointError(f"{path} is damaged: restore it, or move the folder away to train the stage again")


def is_done(stage: Stage) -> bool:
    """Return True for a finished stage. Raises CheckpointError if it was made by another recipe or model."""
    path = stage.output_dir / RECORD
    record = read_record(path)
    finished = "result" in record and is_finished(stage.output_dir)
    remedy = f"restore it, or move {stage.output_dir} away to train the stage again"
    if finished:
        old, new = record["recipe"], stage.values
        if changed := [name for name in sorted(old | new) if old.get(name) != new.get(name)]:
            each = ", ".join(f"{name} {brief(old.get(name))} → {brief(new.get(name))}" for name in changed)
            raise CheckpointError(f"{stage.title} was trained with another recipe ({each}): {remedy}")
    if (finished or list_checkpoints(stage.output_dir)) and record.get("model", {}) != stage.model_contents():
        model = stage.recipe["model"]
        raise CheckpointError(f"{stage.title} began with another content of {model} than it has now: {remedy}")
    if finished and record["result"] != contents(str(stage.result)):
        raise CheckpointError(f"{stage.title}: the content of {stage.result} changed after the stage: {remedy}")
    return finished


def brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def contents(folder: str) -> dict[str, str]:
    """Return the hashes of the weights, the configuration and the processor of a local checkpoint."""
    return {path.name: hash_file(path) for path in sorted(set(paths_in(folder, OF_THE_MODEL)))}


def write_record(stage: Stage, finished: bool = False) -> None:
    stage.output_dir.mkdir(parents=True, exist_ok=True)
    record = {"recipe": stage.values, "model": stage.model_contents()}
    if finished:
        record["result"] = contents(str(stage.result))
    with atomic_file(stage.output_dir / RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@contextmanager
def continued_by_the_same_command(title: str) -> Iterator[None]:
    """Say in messages about the end of a run that the same command continues the chain."""
    remedy = "the same command continues the chain"
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        message = str(error).replace(RESUME, remedy) or f"{signal.Signals(number).name}: {remedy}"
        raise Interrupted(number, f"{title}: {message}") from error
    except RunError as error:
        raise RunError(f"{title}: {str(error).replace(RESUME, remedy)}") from error
