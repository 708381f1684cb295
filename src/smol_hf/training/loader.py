"""Batches of one process: rows of the data stream, stacked, to train on or to validate on.

Each checkpoint saves the position in the training data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from smol_hf.data.stream.lane import Row
from smol_hf.data.stream.preparation import ReadySample
from smol_hf.data.stream.stream import RowStream
from smol_hf.training.log.counters import count_rows_of_batch, source_of_positions

FILE_NAME = "data_state.json"
# Entries of a batch that are not inputs of the model.
FACTS = ("sample_ids", "counts", "sources", "shortened", "drawn", "skipped", "finished")


class TrainingLoader:
    """The trainer's data loader. An epoch continues where the one before it ended.

    Args:
        collator: stacks the samples of a batch.
        batch_size: rows of a batch.
        batches_per_epoch: batches after which an iteration ends. A run that resumes inside an epoch gets the rest.
        total_batches: of the run; None: unlimited.
    """

    def __init__(
        self,
        stream: RowStream,
        collator: Callable[[list[ReadySample]], dict[str, Any]],
        *,
        batch_size: int,
        batches_per_epoch: int,
        total_batches: int | None = None,
    ):
        self.stream, self.collator = stream, collator
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.batches, self.total_batches = 0, total_batches  # a resumed run sets the batches that it trained before
        self.finished_lanes: set[int] = set()
        self.rows = iter(stream)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.total_batches is None or self.batches < self.total_batches:
            yield self.next_batch()
            if self.batches % self.batches_per_epoch == 0:
                return

    def next_batch(self) -> dict[str, Any]:
        rows = self.next_rows()
        samples = [sample for row in rows for sample in row.samples]
        drawn: Counter[str] = Counter()
        for row in rows:
            drawn.update({self.stream.plan.sources[index].name: number for index, number in row.drawn.items()})
        self.batches += 1
        inputs, counts = self.collator(samples), count_rows_of_batch(rows)
        return {
            **inputs,
            "sample_ids": [sample.sample_id for sample in samples],
            "shortened": [(each.sample_id, each.lost) for each in samples if each.lost and each.number == 0],
            "drawn": drawn,
            "skipped": [fault for row in rows for fault in row.faults],
            "counts": counts,
            "sources": source_of_positions(inputs, counts.sequences),
            "finished": self.finished,
        }

    @property
    def finished(self) -> bool:
        """Return True if all lanes of this process are at their end."""
        return len(self.finished_lanes) == self.stream.plan.lanes // self.stream.ranks

    def next_rows(self) -> list[Row]:
        """Return the rows of a batch, and the empty rows between them by which lanes report their end."""
        rows, full = [], 0
        while full < self.batch_size and not self.finished:
            rows.append(next(self.rows))
            if rows[-1].finished:
                self.finished_lanes.add(rows[-1].lane)
            else:
                full += 1
        return rows


def to_device(tensor: torch.Tensor, device: torch.device, compiled: bool = False) -> torch.Tensor:
    """Copy a tensor to a device. A copy from pinned memory joins the queue of a GPU, and the host does not wait.

    Args:
        compiled: tell the compiler that the number of tokens, positions or tiles varies, so that it compiles once.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    tensor = tensor.to(device, non_blocking=True)
    if compiled and tensor.dim():
        torch._dynamo.maybe_mark_dynamic(tensor, 0 if tensor.dim() == 4 else tensor.dim() - 1)
    return tensor


def without_mask(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the mask of padded rows if they are for our models: causal attention never sees what follows a sample.

    With a mask, each step would wait for its device to look for padding, and attention would be slower.
    """
    ours = "logits_to_keep" in inputs
    return {name: value for name, value in inputs.items() if not (ours and name == "attention_mask")}


def save_data_state(folder: Path, lanes: int, parts: list[dict[str, Any]]) -> None:
    """Write the states of all processes' lanes, from which any number of processes can resume."""
    states = {number: state for part in parts for number, state in part.items()}
    text = json.dumps({"lanes": lanes, "states": states}, separators=(",", ":"))
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def load_data_state(folder: Path) -> tuple[int, dict[int, dict]]:
    """Return the number of lanes, and the state of each lane that was read from."""
    saved = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    return saved["lanes"], {int(number): state for number, state in saved["states"].items()}


def summed(accelerator: Accelerator, values: torch.Tensor) -> list[float]:
    """Return the sums of a vector over all processes, which call this together."""
    total = accelerator.reduce(values, reduction="sum")
    assert isinstance(total, torch.Tensor)
    return total.tolist()
