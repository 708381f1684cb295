"""Batches of one process: rows of the data stream, stacked, to train on or to validate on.

Each checkpoint saves the position in the training data.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
AHEAD = 2  # batches


class TrainingLoader:
    """The trainer's data loader. An epoch continues where the one before it ended.

    Args:
        collator: stacks the samples of a batch.
        batch_size: rows of a batch.
        batches_per_epoch: batches after which an iteration ends. A run that resumes inside an epoch gets the rest.
        total_batches: of the run; None: unlimited.
        ahead: stack the next batches in a thread, in pinned memory, while a GPU computes. On a CPU, the thread would
            take the cores of the training.
    """

    def __init__(
        self,
        stream: RowStream,
        collator: Callable[[list[ReadySample]], dict[str, Any]],
        *,
        batch_size: int,
        batches_per_epoch: int,
        total_batches: int | None = None,
        ahead: bool = False,
    ):
        self.stream, self.collator = stream, collator
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.batches, self.total_batches = 0, total_batches  # a resumed run sets the batches that it trained before
        self.states = stream.state_dict()
        self.finished = False  # True if all lanes of this process are at their end
        self.rows = iter(stream)
        self.finished_lanes: set[int] = set()  # of the rows that were read, as the following
        self.thread = ThreadPoolExecutor(1, "batches") if ahead else None
        self.waiting: deque[Future] = deque()

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.total_batches is None or self.batches < self.total_batches:
            yield self.next_batch()
            if self.batches % self.batches_per_epoch == 0:
                return

    def next_batch(self) -> dict[str, Any]:
        # The first batch starts the workers, which must not be forked from a thread.
        batch, states = self.waiting.popleft().result() if self.waiting else self.read_batch()
        self.batches += 1
        self.states |= states
        self.finished = batch["finished"]
        while self.thread is not None and len(self.waiting) < self.wanted_ahead():
            self.waiting.append(self.thread.submit(self.read_batch))
        return batch

    def wanted_ahead(self) -> int:
        """Return the number of batches to prepare, not more than the run has left."""
        if self.finished:
            return 0
        return AHEAD if self.total_batches is None else min(AHEAD, self.total_batches - self.batches)

    def read_batch(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the next batch, and the states of the lanes of its rows."""
        rows = self.next_rows()
        samples = [sample for row in rows for sample in row.samples]
        drawn: Counter[str] = Counter()
        for row in rows:
            drawn.update({self.stream.plan.sources[index].name: number for index, number in row.drawn.items()})
        inputs, counts = self.collator(samples), count_rows_of_batch(rows)
        batch = {
            **inputs,
            "sample_ids": [sample.sample_id for sample in samples],
            "shortened": [(each.sample_id, each.lost) for each in samples if each.lost and each.number == 0],
            "drawn": drawn,
            "skipped": [fault for row in rows for fault in row.faults],
            "counts": counts,
            "sources": source_of_positions(inputs, counts.sequences),
            "finished": self.at_end,
        }
        if self.thread is not None and torch.cuda.is_available():
            batch = {name: pinned(value) for name, value in batch.items()}
        return batch, {str(row.lane): row.state for row in rows}

    @property
    def at_end(self) -> bool:
        """Return True if the rows of all lanes of this process were read."""
        return len(self.finished_lanes) == self.stream.plan.lanes // self.stream.ranks

    def next_rows(self) -> list[Row]:
        """Return the rows of a batch, and the empty rows between them by which lanes report their end."""
        rows, full = [], 0
        while full < self.batch_size and not self.at_end:
            rows.append(next(self.rows))
            if rows[-1].finished:
                self.finished_lanes.add(rows[-1].lane)
            else:
                full += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the lanes after the last batch. Those of all processes are the state of the run."""
        return dict(self.states)


def pinned(value: Any) -> Any:
    """Return a tensor in memory from which a GPU copies without waiting; other values as they are."""
    return value.pin_memory() if isinstance(value, torch.Tensor) else value


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
