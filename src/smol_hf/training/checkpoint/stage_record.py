"""The record of a stage of a chain, and the checks before the stage is trained, continued or skipped.

The folder of a stage has `stage.json`: its recipe, and the hashes of the model that it began with and of its result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smol_hf.support.atomic import atomic_file
from smol_hf.support.hashing import hash_file
from smol_hf.training.checkpoint.checkpoints import CheckpointError, list_checkpoints
from smol_hf.training.checkpoint.fingerprints import fingerprints_now
from smol_hf.training.checkpoint.same_run import (
    OF_THE_PROCESSOR,
    OF_THE_WEIGHTS,
    digests_of_local_files,
    paths_in,
)
from smol_hf.training.recipe.recipes import LONGEST_SHOWN, load_arguments
from smol_hf.training.recipe.values import recipe_errors
from smol_hf.training.run import is_finished, result_of

RECORD = "stage.json"
OF_THE_MODEL = ("config.json", *OF_THE_PROCESSOR, *OF_THE_WEIGHTS)


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

    def begins_in(self, output_dir: Path) -> bool:
        """Return True if its model is in this folder."""
        model = self.recipe.get("model")
        return model is not None and output_dir.resolve() in (Path(model).resolve(), *Path(model).resolve().parents)

    def model_contents(self) -> dict[str, str]:
        model = self.recipe.get("model")
        return {} if model is None else contents(result_of(model))


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


def refuse_lost_stages(stages: list[Stage]) -> None:
    """Refuse to train a stage again if a later one has begun with its result. Raises CheckpointError.

    A stage that has its last checkpoint gives the same result again.
    """

    def has_trained(stage: Stage) -> bool:
        return "result" in read_record(stage.output_dir / RECORD) or bool(list_checkpoints(stage.output_dir))

    for number, stage in enumerate(stages):
        if has_trained(stage):
            continue
        for later in stages[number + 1 :]:
            if later.begins_in(stage.output_dir) and has_trained(later):
                raise CheckpointError(
                    f"{later.title} began with the result of {stage.title}, which has no checkpoint in "
                    f"{stage.output_dir} any more: restore that folder, or move {later.output_dir} away to train both"
                )


def state_of(stage: Stage) -> str:
    """Return words about a finished stage; "" for another. Raises CheckpointError if what decides about it changed."""
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
    if not finished:
        return ""
    if record["result"] != contents(str(stage.result)):
        raise CheckpointError(f"{stage.title}: the content of {stage.result} changed after the stage: {remedy}")
    changed, missing = changed_files(stage)
    if changed:
        raise CheckpointError(f"{stage.title} was trained on another content of {', '.join(changed)}: {remedy}")
    unknown = f" (not compared, because missing: {', '.join(missing)})" if missing else ""
    return f"is finished: skipped{unknown}"


def changed_files(stage: Stage) -> tuple[list[str], list[str]]:
    """Name the changed and the missing ones of the sources and other files that a finished stage read."""
    run = json.loads((stage.output_dir / "run.json").read_text(encoding="utf-8"))
    _, model, data, training = load_arguments(stage.words)
    model.model = None  # its content is in the record
    files = {name: digest for name, digest in run.get("files", {}).items() if not name.startswith("model ")}
    old = files | run.get("source_fingerprints", {})
    with recipe_errors("the data cannot be compared"):
        now = digests_of_local_files(model, data, training) | fingerprints_now(data, training.seed)
    return [name for name in old if now.get(name, old[name]) != old[name]], [name for name in old if name not in now]


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
