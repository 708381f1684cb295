"""Counters of a run and of each source, and the mean loss of each source: cumulative, across processes and resumes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from smol_hf.data.mixture.shares import PlannedMixture, by_modality
from smol_hf.data.stream.lane import Row
from smol_hf.modeling.label_loss import IGNORE_INDEX, at_positions, next_tokens

FILE_NAME = "counters.json"
# `other_modality`: samples of another modality than the mixture names. `given_up`: lanes that stopped reading the
# source because they found nothing usable.
SOURCE_COUNTERS = ("samples", "tokens", "trained_tokens", "tiles", "skipped", "other_modality", "given_up")
# `positions` include padding, `tokens` do not.
RUN_COUNTERS = ("positions", "skipped_steps", "spikes", "shortened_samples")
COLUMNS = (*SOURCE_COUNTERS, *RUN_COUNTERS)
LOGGED = SOURCE_COUNTERS[:5]
TOTALS = {  # name in the log and in `counters.json` → column
    "tokens": "tokens", "trained_tokens": "trained_tokens", "positions": "positions", "samples": "samples",
    "tiles": "tiles", "skipped_samples": "skipped", "skipped_steps": "skipped_steps",
    "spikes": "spikes", "shortened_samples": "shortened_samples",
}  # fmt: skip


@dataclass
class BatchCounts:
    """Counts of one batch by source. A sample of several sequences is counted with its first sequence.

    Attributes:
        sequences: the source of each sequence.
        samples: source and modality of each sample.
        counts: numbers by source and counter.
    """

    sequences: list[int] = field(default_factory=list)
    samples: list[tuple[int, str]] = field(default_factory=list)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)


def count_rows_of_batch(rows: list[Row]) -> BatchCounts:
    """Count the samples, tokens, tiles and faults of a batch's rows."""
    result = BatchCounts()
    for row in rows:
        for sample in row.samples:
            result.sequences.append(sample.source)
            if sample.number == 0:
                result.samples.append((sample.source, sample.modality))
                result.counts[sample.source, "samples"] += 1
            result.counts[sample.source, "tokens"] += len(sample.input_ids)
            result.counts[sample.source, "trained_tokens"] += int((sample.labels[1:] != IGNORE_INDEX).sum())
            result.counts[sample.source, "tiles"] += len(sample.tiles)
        result.counts.update({(source, "skipped"): number for source, number in row.skipped.items()})
        result.counts.update((source, "given_up") for source in row.given_up)
    return result


def source_of_positions(inputs: dict, sequences: list[int]) -> torch.Tensor | None:
    """Return the source of each position that has logits, (batch, positions). Padding belongs to the row's sample.

    None if the collator located no positions, and for a batch without samples.
    """
    if "logits_to_keep" not in inputs or not sequences:
        return None
    sources = torch.tensor(sequences)
    if "position_ids" in inputs:
        begins = inputs["position_ids"] == 0
        sources = sources[begins.flatten().cumsum(0) - 1].view(begins.shape)
    else:
        sources = sources[:, None].expand(inputs["labels"].shape)
    return at_positions(sources, inputs["logits_to_keep"])


class RunCounters:
    """Counters of all sources and of the run, its rates, and the sums for the mean losses.

    Attributes:
        total: (sources + 1, columns), of all processes and of the earlier runs that this one resumed. The last row
            counts what belongs to no source.
        own: the same, of this process since the last log.
        step, window: (sources, 2), sum of the losses and number of labelled tokens of this step and since the last
            log. They are on the device, so that no step waits for them.
    """

    def __init__(self, accelerator, planned: PlannedMixture):
        self.accelerator, self.planned = accelerator, planned
        self.total = torch.zeros((len(planned.names) + 1, len(COLUMNS)), dtype=torch.long)
        self.own = torch.zeros_like(self.total)
        precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
        self.step = torch.zeros(len(planned.names), 2, dtype=precise, device=accelerator.device)
        self.window = torch.zeros_like(self.step)
        self.measured_tokens, self.seconds = 0, 0.0  # of all windows that were logged
        self.start_clock()

    def start_clock(self) -> None:
        """Measure rates from now on: after a start, an evaluation or a save."""
        self.since = time.perf_counter()
        self.at_start = self.total + self.own

    def add(self, batch: BatchCounts, positions: int, shortened: int) -> None:
        """Count a batch of the collator. The positions of one without samples do not count."""
        for (source, name), number in batch.counts.items():
            self.own[source, COLUMNS.index(name)] += number
        for source, modality in batch.samples:
            if self.planned.modalities[source] not in (None, modality):
                self.own[source, COLUMNS.index("other_modality")] += 1
        if batch.sequences:
            self.own[-1, COLUMNS.index("positions")] += positions
            self.own[-1, COLUMNS.index("shortened_samples")] += shortened

    def count_step(self, column: str) -> None:
        """Count a step that changed nothing (`skipped_steps`), or a spike (`spikes`)."""
        self.own[-1, COLUMNS.index(column)] += 1

    def add_losses(self, token_losses: torch.Tensor, inputs: dict, sources: torch.Tensor) -> None:
        """Add the losses of the positions that have logits, (batch, positions), to those of the step."""
        labelled = next_tokens(inputs["labels"], inputs["logits_to_keep"]) != IGNORE_INDEX
        values = torch.stack([token_losses.flatten(), labelled.flatten()], dim=1)
        self.step.index_add_(0, sources.flatten(), values.to(self.step.dtype))

    def close_step(self, finite: bool) -> None:
        """Add the losses of a step to those of the window, or forget them if they are not finite."""
        if finite:
            self.window += self.step
        self.step.zero_()

    def gather(self) -> dict[str, int]:
        """Add the counts of all processes to the total, and return its sums. All processes must call this together."""
        own = self.own.to(self.accelerator.device)
        self.total = self.total + self.accelerator.reduce(own, reduction="sum").cpu()
        self.own = torch.zeros_like(self.own)
        return sums_of(self.total)

    def of_sources(self, name: str) -> list[int]:
        """Return the total of one counter for each source."""
        return self.total[:-1, COLUMNS.index(name)].tolist()

    def epochs(self) -> list[float]:
        """Return how often each source was read, skipped samples included."""
        read = zip(self.of_sources("samples"), self.of_sources("skipped"), self.planned.rows)
        return [(samples + skipped) / max(rows, 1) for samples, skipped, rows in read]

    def rate(self) -> float | None:
        """Return tokens per second of this run, without evaluations and saves; None before the first log."""
        return self.measured_tokens / self.seconds if self.seconds else None

    def log_entries(self) -> dict[str, float]:
        """Return rates and losses since the last call, and cumulative counters. All processes call this together."""
        total = self.gather()
        window, seconds = sums_of(self.total - self.at_start), time.perf_counter() - self.since
        self.measured_tokens, self.seconds = self.measured_tokens + window["tokens"], self.seconds + seconds
        self.start_clock()
        return {
            "tokens_per_second": window["tokens"] / seconds,
            "trained_tokens_per_second": window["trained_tokens"] / seconds,
            "samples_per_second": window["samples"] / seconds,
            "trained_token_fraction": window["trained_tokens"] / max(window["tokens"], 1),
            "padding_fraction": 1 - window["tokens"] / max(window["positions"], 1),
            **{f"total_{name}": value for name, value in total.items()},
            **self.entries_of_sources(),
        }

    def entries_of_sources(self) -> dict[str, Any]:
        """Return the mean loss per trained token; for a mixture also that of each source, with its counters."""
        sums = self.accelerator.reduce(self.window, reduction="sum").tolist()
        self.window = torch.zeros_like(self.window)
        entries: dict[str, Any] = {}
        if tokens := sum(number for _, number in sums):
            entries["loss"] = sum(loss for loss, _ in sums) / tokens
        if len(sums) == 1:
            return entries
        names, modalities = self.planned.names, self.planned.modalities
        entries |= {f"loss/{name}": loss / tokens for name, (loss, tokens) in zip(names, sums) if tokens}
        if any(modalities):
            losses, numbers = (by_modality(modalities, [pair[side] for pair in sums]) for side in (0, 1))
            entries |= {f"loss_by_modality/{key}": losses[key] / numbers[key] for key in losses if numbers[key]}
        for counter in LOGGED:
            entries |= {f"{counter}/{name}": count for name, count in zip(names, self.of_sources(counter))}
        entries |= {f"epoch/{name}": round(epoch, 4) for name, epoch in zip(names, self.epochs())}
        entries |= {f"given_up/{name}": lanes for name, lanes in zip(names, self.of_sources("given_up")) if lanes}
        return entries


def sums_of(counts: torch.Tensor) -> dict[str, int]:
    """Sum counts (sources + 1, columns) by the names of the log."""
    sums: dict[str, int] = dict(zip(COLUMNS, counts.sum(0).tolist()))
    return {name: sums[column] for name, column in TOTALS.items()}
