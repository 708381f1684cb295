"""What a run counts of each source, and the mean loss of each: cumulative, across processes and resumes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch

from smol_hf.data.mixture.shares import PlannedMixture, by_modality
from smol_hf.data.stream.lane import Row
from smol_hf.modeling.label_loss import IGNORE_INDEX, labelled_positions

# Of each source. `other_modality`: samples of another modality than the mixture names; `given_up`: lanes that read no
# more of it, because they found nothing usable.
FIELDS = ("samples", "tokens", "trained_tokens", "tiles", "skipped", "other_modality", "given_up")
LOGGED = FIELDS[:5]


@dataclass
class BatchSources:
    """The source of each sequence of a batch and of each sample, and what there is to count. A sample of several
    sequences is counted with its first one."""

    of_samples: list[int] = field(default_factory=list)
    of_sequences: list[int] = field(default_factory=list)
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    modalities: list[str] = field(default_factory=list)


def sources_of(rows: list[Row]) -> BatchSources:
    result = BatchSources()
    for row in rows:
        for sample in row.samples:
            result.of_sequences.append(sample.source)
            if sample.number == 0:
                result.of_samples.append(sample.source)
                result.modalities.append(sample.modality)
                result.counts[sample.source, "samples"] += 1
            result.counts[sample.source, "tokens"] += len(sample.input_ids)
            result.counts[sample.source, "trained_tokens"] += int((sample.labels[1:] != IGNORE_INDEX).sum())
            result.counts[sample.source, "tiles"] += len(sample.tiles)
        result.counts.update({(source, "skipped"): number for source, number in row.skipped.items()})
        result.counts.update((source, "given_up") for source in row.given_up)
    return result


def owners(inputs: dict, of_sequences: list[int]) -> torch.Tensor:
    """The source of each position of a collator's batch, (batch, sequence); padding belongs to the row's sample."""
    sources = torch.tensor(of_sequences, device=inputs["labels"].device)
    if "position_ids" in inputs:
        begins = inputs["position_ids"] == 0
        return sources[begins.flatten().cumsum(0) - 1].view(begins.shape)
    return sources[:, None].expand(inputs["labels"].shape)


class SourceBooks:
    """Counters of all sources, and the sums that their mean losses are made of.

    `total` (sources, fields) covers all processes and earlier runs that this one resumed; `own` what this process
    counted since the last log. `step` and `window` (sources, 2) hold the sum of the losses and the number of labelled
    tokens, on the device: nothing waits for them before the log is written.
    """

    def __init__(self, accelerator, planned: PlannedMixture):
        self.accelerator, self.planned = accelerator, planned
        shape = (len(planned.names), len(FIELDS))
        self.total, self.own = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
        self.step = torch.zeros(len(planned.names), 2, dtype=precise, device=accelerator.device)
        self.window = torch.zeros_like(self.step)

    def add(self, batch: BatchSources) -> None:
        for (source, name), number in batch.counts.items():
            self.own[source, FIELDS.index(name)] += number
        for source, modality in zip(batch.of_samples, batch.modalities):
            if self.planned.modalities[source] not in (None, modality):
                self.own[source, FIELDS.index("other_modality")] += 1

    def add_losses(self, token_losses: torch.Tensor, inputs: dict, batch: BatchSources) -> None:
        """Args:
        token_losses: (batch, positions) of the positions that predict a label, as the model gives them.
        """
        if not batch.of_sequences:
            return
        positions = labelled_positions(inputs["labels"])
        owner = owners(inputs, batch.of_sequences)[:, positions].flatten()
        labelled = inputs["labels"][:, positions + 1] != IGNORE_INDEX
        values = torch.stack([token_losses.flatten(), labelled.flatten()], dim=1)
        self.step.index_add_(0, owner, values.to(self.step.dtype))

    def close_step(self, finite: bool) -> None:
        """Add the losses of a step to those of the window, or forget them where the step was dropped."""
        if finite:
            self.window += self.step
        self.step.zero_()

    def gather(self) -> torch.Tensor:
        """Add what all processes counted to the total. All processes must call this together."""
        own = self.own.to(self.accelerator.device)
        self.total = self.total + self.accelerator.reduce(own, reduction="sum").cpu()
        self.own = torch.zeros_like(self.own)
        return self.total

    def epochs(self) -> list[float]:
        """How often each source was gone through, what was skipped included."""
        read = self.total[:, FIELDS.index("samples")] + self.total[:, FIELDS.index("skipped")]
        return [number / max(rows, 1) for number, rows in zip(read.tolist(), self.planned.rows)]

    def log_entries(self) -> dict[str, float]:
        """The mean loss per trained token since the last call, and for a mixture that of each source, with its
        counters. All processes must call this together."""
        total = self.gather()
        sums = self.accelerator.reduce(self.window, reduction="sum").tolist()
        self.window = torch.zeros_like(self.window)
        entries: dict[str, float] = {}
        if tokens := sum(number for _, number in sums):
            entries["loss"] = sum(loss for loss, _ in sums) / tokens
        if len(sums) == 1:
            return entries
        entries |= {f"loss/{name}": loss / tokens for name, (loss, tokens) in zip(self.planned.names, sums) if tokens}
        modalities = self.planned.modalities
        if any(modalities):
            losses, numbers = (by_modality(modalities, [pair[side] for pair in sums]) for side in (0, 1))
            entries |= {f"loss_by_modality/{key}": losses[key] / numbers[key] for key in losses if numbers[key]}
        for name, counts, epoch in zip(self.planned.names, total.tolist(), self.epochs()):
            entries |= {f"{field}/{name}": count for field, count in zip(LOGGED, counts)}
            entries[f"epoch/{name}"] = round(epoch, 4)
            if lanes := counts[FIELDS.index("given_up")]:
                entries[f"given_up/{name}"] = lanes
        return entries
