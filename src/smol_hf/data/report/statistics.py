"""Numbers of samples, tokens and tiles of a plan's sources, and a forecast of the packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smol_hf.data.conversation import SampleError
from smol_hf.data.report.reasons import reasons_of, skip_kind
from smol_hf.data.stream.record_use import RecordUse
from smol_hf.data.stream.stream import Plan
from smol_hf.data.stream.survey import Measured, Size, Survey

BARS = 10
KINDS = ("unusable", "too long", "filtered")


def statistics(plan: Plan, found: Survey) -> dict[str, Any]:
    """Summarise a survey in numbers.

    Returns:
        `sources`: for each source its records, usable and left out samples by kind and reason, and the distributions
        of tokens, trained tokens, images, frames and seconds of videos, tiles and turns of its usable samples, with
        its shares of the mixture and the counts of `RecordUse`.
        `all`: the same of all sources together, each record counted once.
    """
    by_source = [[] for _ in plan.sources]
    for (index, _), each in found.found.items():
        by_source[index].append(each)
    sources = [
        {"name": source.name, **summary_of(each), **found.use.get(index, RecordUse()).facts()}
        for index, (source, each) in enumerate(zip(plan.sources, by_source))
    ]
    samples = [weight * one["usable"] for weight, one in zip(plan.weights, sources)]
    tokens = [weight * one["tokens"]["total"] for weight, one in zip(plan.weights, sources)]
    for one, samples_of_one, tokens_of_one in zip(sources, samples, tokens):
        one["share_of_samples"] = samples_of_one / sum(samples) if sum(samples) else 0.0
        one["share_of_tokens"] = tokens_of_one / sum(tokens) if sum(tokens) else 0.0
    return {"sources": sources, "all": summary_of([each for source in by_source for each in source])}


def summary_of(found: Sequence[Size | SampleError]) -> dict[str, Any]:
    usable = [each for each in found if isinstance(each, Size)]
    faults = [each for each in found if isinstance(each, SampleError)]
    kinds = [skip_kind(fault) for fault in faults]
    return {
        "records": len(found),
        "usable": len(usable),
        "left_out": {kind: kinds.count(kind) for kind in KINDS},
        "reasons": [reason.facts() for reason in reasons_of(faults)],
        "tokens": distribution([size.num_tokens for size in usable]),
        "trained_tokens": distribution([size.num_trained for size in usable]),
        "images": distribution([size.num_images for size in usable]),
        "frames": distribution([size.num_frames for size in usable]),
        "seconds": distribution([size.seconds for size in usable]),
        "tiles": distribution([size.num_tiles for size in usable]),
        "turns": distribution([size.num_turns for size in usable]),
        "histogram": histogram([size.num_tokens for size in usable]),
    }


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Return total, mean, median, 95th percentile and maximum; all 0 without values."""
    values = values or [0]
    median, p95 = np.percentile(values, [50, 95])
    return {
        "total": np.sum(values).item(),
        "mean": float(np.mean(values)),
        "median": float(median),
        "p95": float(p95),
        "max": np.max(values).item(),
    }


def histogram(values: Sequence[int]) -> list[dict[str, int]]:
    """Up to ten bars of equal width over whole numbers: {"from", "to", "number"}, both ends included."""
    if not values:
        return []
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // BARS)
    edges = np.arange(low, high + width + 1, width)
    numbers, _ = np.histogram(values, bins=edges)
    return [
        {"from": int(edge), "to": int(edge) + width - 1, "number": int(number)} for edge, number in zip(edges, numbers)
    ]


def packing_forecast(plan: Plan, found: Survey, pool_size: int) -> dict[str, Any]:
    """Forecast the packed rows of one round of the mixture, with the lanes and pools of a run.

    Args:
        found: the survey of these sources. Nothing is decoded.
        pool_size: samples in the pool of each lane.

    Returns:
        `rows`, `samples` (with repetitions), `fill` (tokens / (rows × context_length)),
        `tiles_per_row` and `truncated`, which is 0: only whole samples are packed.
    """
    measured = Measured(plan.sources, found)
    packing = replace(plan, work=measured, rounds=1, pool_size=pool_size)
    samples, tokens, tiles = 0, [], []
    for lane in packing.some_lanes(range(plan.lanes), measured, {}):
        while not (row := lane.next_row()).finished:
            if row.samples:
                samples += sum(size.number == 0 for size in row.samples)
                tokens.append(sum(size.num_tokens for size in row.samples))
                tiles.append(sum(size.num_tiles for size in row.samples))
    return {
        "context_length": plan.context_length,
        "pool_size": pool_size,
        "rows": len(tokens),
        "samples": samples,
        "fill": sum(tokens) / (len(tokens) * plan.context_length) if tokens else 0.0,
        "tiles_per_row": distribution(tiles),
        "truncated": 0,
    }
