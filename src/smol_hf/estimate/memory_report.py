"""The estimated memory of a training step that did not fit, and of steps that need less."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Column, Table

from smol_hf.estimate.dry_run import cost_of
from smol_hf.estimate.planned_data import seen_rows
from smol_hf.estimate.planned_model import planned_step, planned_target
from smol_hf.estimate.target import Target, only_adapters
from smol_hf.support.formatting import counted, data_size
from smol_hf.support.tables import print_parts
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

SHARDS = 8  # processes of the proposed FSDP
SHARED = ("weights", "gradients", "optimizer")  # what FSDP divides among the processes


def report_memory(
    recipe: dict[str, Any],
    model: ModelArguments,
    data: DataArguments | PreferenceArguments,
    training: SmolTrainingArguments | DPOArguments,
) -> str:
    """Return the memory of a step of this recipe, and a table of changes with which a step needs less."""
    try:
        target, origin = planned_target(model, data, training, {})
        if target is None:
            return f"The memory of a step is unknown: {origin}"
        rows = seen_rows(data)
        shape = planned_step(target, data, rows)
        cost = cost_of(target, shape, training, None, None)
        if "unknown" in cost:
            return f"The memory of a step is unknown: {cost['unknown']}"
        processes = PartialState().num_processes
        shards = processes if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else 1
        memory = shared_by(cost["memory"], shards)
        found = [("none", memory, "")]
        for words, changed, resumes in changes(target, recipe, model, training):
            try:
                step = planned_step(changed, data, rows)
                found.append(
                    (words, shared_by(cost_of(changed, step, training, None, None)["memory"], shards), resumes)
                )
            except (RecipeError, KeyError):  # an image does not fit, or the step cannot be traced
                continue
        if shards == 1:
            words = f"FSDP2 on {SHARDS} processes (recipes/accelerate/fsdp2.yaml)"
            found.append((words, shared_by(memory, SHARDS), "no"))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return f"The memory of a step is unknown: {error}"
    table = Table("change", Column("peak", justify="right"), "accepted on resume")
    for words, sizes, resumes in found:
        if not resumes or sizes["peak"] < memory["peak"]:
            table.add_row(words, data_size(sizes["peak"]), resumes)
    lines = [
        f"smol-hf estimate, for a step of {shape.rows} × {shape.length:,} tokens and {counted(shape.tiles, 'tile')}, "
        "per process:",
        "  memory: " + ", ".join(f"{name} {data_size(size)}" for name, size in memory.items()),
        table,
    ]
    text = io.StringIO()
    print_parts(Console(file=text, highlight=False, markup=False), lines)
    return text.getvalue().rstrip("\n")


def changes(
    target: Target, recipe: dict[str, Any], model: ModelArguments, training: SmolTrainingArguments | DPOArguments
) -> Iterator[tuple[str, Target, str]]:
    """Yield keys with values that need less memory, the changed target, and `yes` if a resumed run accepts them."""
    rows, batches = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if rows > 1:
        fewer = max(number for number in range(1, rows // 2 + 1) if rows % number == 0)
        words = f"per_device_train_batch_size {fewer}"
        if training.global_batch_size is None or recipe.get("gradient_accumulation_steps") is not None:
            words += f", gradient_accumulation_steps {batches * rows // fewer}"
        yield words, replace(target, batch_size=target.batch_size * fewer // rows), "yes"
    if not target.gradient_checkpointing:
        yield "gradient_checkpointing true", replace(target, gradient_checkpointing=True), "yes"
    length = "max_length" if isinstance(training, DPOArguments) else "context_length"
    yield f"{length} {target.length // 2}", replace(target, length=target.length // 2), "no"
    if model.model is not None and target.lora is None:
        yield "use_peft true", replace(target, **only_adapters(target.config, {})), "no"


def shared_by(memory: dict[str, int], shards: int) -> dict[str, int]:
    """Return the memory of a process if `shards` processes share weights, gradients and optimizer."""
    shared = {name: memory[name] // shards for name in SHARED}
    saved = sum(memory[name] for name in SHARED) - sum(shared.values())
    return {**memory, **shared, "peak": memory["peak"] - saved}
