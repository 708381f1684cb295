"""A dry run of a recipe or of a chain: its numbers, checked against each other, without a download and a step.

The model is built on the meta device. A disagreement is a RecipeError of one sentence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from smol_hf.estimate.estimate import ADDED, build_on_meta, count_by_part, estimate_step
from smol_hf.estimate.planned_data import MISSING, PlannedSource, describe, planned_sources, seen_rows, shares_of
from smol_hf.estimate.planned_model import planned_step, planned_target
from smol_hf.estimate.target import Target
from smol_hf.estimate.traced_step import OPTIMIZERS
from smol_hf.support.formatting import compact, counted, duration, percent
from smol_hf.support.tables import print_parts
from smol_hf.training.data import check_lanes
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.inherited_checks import settle_global_batch
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import ARGUMENT_CLASSES, ask_for_data, load_arguments
from smol_hf.training.recipe.values import RecipeError, UsageError
from smol_hf.training.stages import read_stages


def dry_run(
    stages: Sequence[str] | None,
    words: Sequence[str],
    classes: tuple[type, ...] = ARGUMENT_CLASSES,
    num_processes: int | None = None,
    tflops: float | None = None,
    traces: bool = True,
) -> list[dict[str, Any]]:
    """Check one recipe or a chain, print the numbers, and return them for each recipe.

    Args:
        stages: recipes of a chain; None for one recipe.
        words: the other words of the command line.
        num_processes: of the planned run (default: WORLD_SIZE, or 1).
        tflops: achieved TFLOP/s of one process; without it no hours.
        traces: trace a step, for memory and hours.

    Raises:
        RecipeError, SampleError, FileNotFoundError: for numbers that contradict each other, and unusable local data.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if num_processes is None else num_processes
    for option, number in (("num-processes", processes), ("tflops", tflops)):
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"--{option} is {number}: it must be above 0")
    console = Console(highlight=False, markup=False, quiet=os.environ.get("RANK", "0") != "0")
    results = []
    earlier: dict[str, Target | None] = {}
    planned = (
        [(stage.title, load_arguments(stage.words)) for stage in read_stages(stages, words, processes)]
        if stages is not None
        else [("the recipe", load_arguments(words, classes))]
    )
    for title, (recipe, *arguments) in planned:
        ask_for_data(recipe, classes)
        if stages is not None:
            console.print(title)
        try:
            facts, target = check(
                recipe, *arguments, processes=processes, tflops=tflops, traces=traces, earlier=earlier
            )
        except RecipeError as error:
            raise type(error)(f"{title}: {error}" if stages is not None else str(error)) from error
        earlier[f"{arguments[-1].output_dir}/checkpoint"] = target
        print_parts(console, lines_of(facts))
        results.append(facts)
    return results


def check(
    recipe: dict[str, Any],
    model: ModelArguments,
    data: DataArguments | PreferenceArguments,
    training: SmolTrainingArguments | DPOArguments,
    *,
    processes: int,
    tflops: float | None,
    traces: bool,
    earlier: dict[str, Target | None],
) -> tuple[dict[str, Any], Target | None]:
    """Return the numbers of one recipe, and its model. Raises RecipeError for a disagreement."""
    settle_global_batch(recipe, training, processes)
    target, origin = planned_target(model, data, training, earlier)
    sources = planned_sources(data)
    seen = seen_rows(data)
    if target is not None and target.tiler is None and seen and all(row.frames or row.images for row in seen):
        raise RecipeError(
            f"the data has images or videos, but the model is a language model ({origin}): add an image encoder with "
            "smol-hf compose"
        )
    facts: dict[str, Any] = {"model": origin, "sources": describe(sources), "shares": shares_of(sources)}
    if frames := [row.frames for row in seen if row.frames]:
        facts["videos"] = {
            "rows": len(seen),
            "with_videos": len(frames),
            "mean": sum(frames) / len(frames),
            "most": max(frames),
        }
    facts |= {"batch": batch_of(training, processes), **length_of(data, training, target, sources, processes)}
    if isinstance(data, DataArguments) and isinstance(training, SmolTrainingArguments):
        check_lanes(data.data_lanes, training, processes)
    check_steps(training, facts["steps"])
    if target is None:
        return facts, None
    meta = build_on_meta(target)
    facts["parameters"] = count_by_part(meta)
    facts["trained_parameters"] = sum(weight.numel() for weight in meta.parameters() if weight.requires_grad)
    shape = planned_step(target, data, seen)
    facts["step"] = {"rows": shape.rows, "length": shape.length, "tiles": shape.tiles}
    if traces:
        facts |= cost_of(target, shape, training, facts["steps"], tflops)
    return facts, target


def batch_of(training: SmolTrainingArguments | DPOArguments, processes: int) -> dict[str, int]:
    rows, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    return {
        "per_device": rows, "accumulation": accumulation, "processes": processes,
        "global": rows * accumulation * processes,
    }  # fmt: skip


def length_of(
    data: DataArguments | PreferenceArguments,
    training: SmolTrainingArguments | DPOArguments,
    target: Target | None,
    sources: list[PlannedSource],
    processes: int,
) -> dict[str, Any]:
    """Return `steps`, `samples`, `epochs` and `tokens` of the run; None for what follows from data elsewhere.

    `tokens` is the largest number, that of full rows. A packed row has an unknown number of samples.
    """
    rows, known = batch_of(training, processes)["global"], [source.records for source in sources]
    documents = isinstance(data, DataArguments) and data.documents is not None
    per_epoch = None if documents or None in known else sum(each for each in known if each is not None)
    if isinstance(data, PreferenceArguments):
        per_epoch = sources[0].records
    epochs: float | None = training.num_train_epochs
    packed = isinstance(data, DataArguments) and data.sample_packing
    if training.max_steps > 0:
        steps: int | None = training.max_steps
        samples = None if packed or documents else steps * rows
        epochs = samples / per_epoch if samples is not None and per_epoch else None
    else:
        samples = None if per_epoch is None else math.ceil(per_epoch * training.num_train_epochs)
        steps = None if samples is None else math.ceil(samples / rows)
    length = target.length if target is not None else getattr(data, "context_length", None)
    if isinstance(data, PreferenceArguments):
        length = None if training.max_length is None else 2 * training.max_length
    tokens = None if steps is None or length is None else steps * rows * length
    return {"steps": steps, "samples": samples, "epochs": epochs, "tokens": tokens, "context_length": length}


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a ValueError about the numbers of a recipe into a RecipeError."""
    try:
        yield
    except ValueError as error:
        raise RecipeError(str(error)) from error


def check_steps(training: SmolTrainingArguments | DPOArguments, steps: int | None) -> None:
    """Refuse a schedule that does not fit the steps of the run. Raises RecipeError."""
    if steps is None:
        return
    warmup = training.get_warmup_steps(steps)
    if training.warmup_steps >= 1 and warmup >= steps:  # as a share of the run it always fits
        raise RecipeError(f"warmup_steps {warmup:,} is not before the end of the run, which has {steps:,} steps")
    if not isinstance(training, SmolTrainingArguments):
        return
    with one_sentence():
        training.check_schedule(steps)
    first, rise = training.unfreeze_vision_at_step, training.vision_warmup_steps
    if first + rise >= steps and first + rise:
        raise RecipeError(
            f"unfreeze_vision_at_step {first:,} with vision_warmup_steps {rise:,} is not before the end of the run, "
            f"which has {steps:,} steps"
        )


def cost_of(target: Target, shape, training, steps: int | None, tflops: float | None) -> dict[str, Any]:
    """Return `memory` in bytes and, with `tflops`, the `hours` of full rows; or why they are unknown."""
    name = str(getattr(training.optim, "value", training.optim))
    optimizer = name if name in OPTIMIZERS else "adamw"
    try:
        estimated = estimate_step(target, shape, optimizer, tflops=tflops)
    except RecipeError as error:
        return {"unknown": str(error)}
    memory = estimated["memory"]
    if isinstance(training, DPOArguments) and target.lora is None and not training.precompute_ref_log_probs:
        memory = {**memory, "reference": memory["weights"], "peak": memory["peak"] + memory["weights"]}
    facts: dict[str, Any] = {"memory": memory, "flops_per_step": estimated["flops"]["per_step"]}
    if tflops is not None and steps is not None:
        seconds = estimated["seconds_per_step"] * training.gradient_accumulation_steps * steps
        facts |= {"tflops": tflops, "hours": seconds / 3600}
    return facts


def lines_of(facts: dict[str, Any]) -> Iterator[str | Table]:
    """Yield the numbers of one recipe as lines and tables."""
    yield f"model: {facts['model']}"
    if "parameters" in facts:
        table = Table("part", Column("parameters", justify="right"))
        for part, number in facts["parameters"].items():
            table.add_row(part, f"{number:,}")
        table.add_section()
        total = sum(number for part, number in facts["parameters"].items() if part not in ADDED)
        table.add_row("total", f"{total:,}")
        table.add_row("trained", f"{facts['trained_parameters']:,}")
        yield table
    yield from lines_of_sources(facts["sources"], facts["shares"])
    if "videos" in facts:
        videos = facts["videos"]
        yield (
            f"videos: in {videos['with_videos']} of the first {counted(videos['rows'], 'row')}, "
            f"{videos['mean']:.3g} frames in each, at most {videos['most']}"
        )
    batch = facts["batch"]
    yield (
        f"batch: {batch['per_device']} per device × {batch['accumulation']} accumulated × "
        f"{counted(batch['processes'], 'process', ending='es')} = {batch['global']:,}"
    )
    known = [source["records"] for source in facts["sources"]]
    if None not in known and 0 < sum(known) < batch["global"]:
        yield f"warning: a step has {batch['global']:,} rows, and a round of the data has {sum(known):,.0f} records"
    names = {"steps": "{:,}", "samples": "{:,}", "epochs": "{:,.4g}" if (facts["epochs"] or 0) < 1000 else "{:,.0f}"}
    if len(facts["sources"]) > 1:
        names["epochs"] += " (rounds of the mixture)"
    shown = [f"{name} {form.format(facts[name])}" for name, form in names.items() if facts[name] is not None]
    unknown = [name for name in names if facts[name] is None]
    tokens = [f"at most {compact(facts['tokens'])} tokens"] if facts["tokens"] is not None else []
    follow = f"; unknown before the data is read: {', '.join(unknown)}" if unknown else ""
    yield f"run: {', '.join([*shown, *tokens])}{follow}"
    if "memory" in facts:
        step = facts["step"]
        tiles = counted(step["tiles"], "tile")
        like = ", with rows like the first ones of the data" if "videos" in facts else ""
        yield f"a step of {step['rows']} × {step['length']:,} tokens and {tiles}{like}, per process:"
        yield "  memory: " + ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in facts["memory"].items())
    if "hours" in facts:
        bound = "about" if "videos" in facts else "at most"
        yield f"  at {facts['tflops']:g} TFLOP/s per process: {bound} {duration(facts['hours'] * 3600)} of training"
    if "unknown" in facts:
        yield f"  memory and time are unknown: {facts['unknown']}"


def lines_of_sources(sources: list[dict[str, Any]], shares: dict[str, float] | None) -> Iterator[str]:
    places: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        places.setdefault(source["place"], []).append(source)
    for place, found in places.items():
        rows = [source["rows"] for source in found]
        size = "" if None in rows else f", {counted(sum(rows), 'record')}"
        if held_out := sum(source["held_out"] for source in found):
            size += f", and about {held_out:,} to validate on"
        problem = " and left out (on_failed_source)" if place == MISSING else ""
        names = ", ".join(source["name"] for source in found[:4]) + (", …" if len(found) > 4 else "")
        yield (
            f"data: {names}: {counted(len(found), 'source')} on {place}{size}"
            if not problem
            else (f"data: {names}: {counted(len(found), 'source')} missing here{problem}{size}")
        )
    if shares is not None and len(shares) > 1:
        yield "shares: " + ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
