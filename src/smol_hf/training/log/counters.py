"""What a run counts: tokens, trained tokens, samples, tiles, skipped steps. Cumulative, across resumes."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from smol_hf.modeling.label_loss import IGNORE_INDEX

FILE_NAME = "counters.json"


@dataclass
class Counters:
    """Sums over the whole run and all processes.

    `tokens` are those that the model read (no padding), `trained_tokens` those with a label, `positions` all that
    were computed, padding included, `tiles` the images' tiles.
    """

    tokens: int = 0
    trained_tokens: int = 0
    positions: int = 0
    samples: int = 0
    tiles: int = 0
    skipped_samples: int = 0
    skipped_steps: int = 0
    shortened_samples: int = 0

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(mine - theirs for mine, theirs in zip(self.as_list(), other.as_list())))

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(mine + theirs for mine, theirs in zip(self.as_list(), other.as_list())))

    def as_list(self) -> list[int]:
        return list(dataclasses.astuple(self))

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Counters:
        return cls(**json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))


def count_batch(batch: dict) -> Counters:
    """What one batch of the collator holds. One without samples has a place that stands for nothing."""
    if not batch["sample_ids"]:
        return Counters(skipped_samples=len(batch["skipped"]))
    input_ids, labels = batch["input_ids"], batch["labels"]
    return Counters(
        tokens=sum(number for (_, name), number in batch["sources"].counts.items() if name == "tokens"),
        trained_tokens=int((labels[:, 1:] != IGNORE_INDEX).sum()),
        positions=input_ids.numel(),
        samples=len(batch["sources"].of_samples),
        tiles=len(batch["pixel_values"]) if batch.get("pixel_values") is not None else 0,
        skipped_samples=len(batch["skipped"]),
        shortened_samples=len(batch["shortened"]),
    )


class Books:
    """Keeps the counters of this process, adds those of the others at each log, and measures rates in between.

    `total` covers all processes and earlier runs that this one resumed; `own` what this process counted since the
    last log.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.total = Counters()
        self.own = Counters()
        self.measured, self.seconds = Counters(), 0.0  # of all windows that were logged
        self.start_clock()

    def start_clock(self) -> None:
        """Rates are measured from here: after a start, an evaluation or a save."""
        self.since = time.perf_counter()
        self.at_start = self.total + self.own

    def add(self, counters: Counters) -> None:
        self.own = self.own + counters

    def gather(self) -> Counters:
        """Add what all processes counted to the total. All processes must call this together."""
        own = torch.tensor(self.own.as_list(), dtype=torch.long, device=self.accelerator.device)
        self.total = self.total + Counters(*self.accelerator.reduce(own, reduction="sum").tolist())
        self.own = Counters()
        return self.total

    def rate(self) -> float | None:
        """Tokens per second of this run so far, without evaluations and saves; None before the first log."""
        return self.measured.tokens / self.seconds if self.seconds else None

    def log_entries(self) -> dict[str, float]:
        """Rates since the last call and cumulative counters, for the log."""
        total = self.gather()
        window, seconds = total - self.at_start, time.perf_counter() - self.since
        self.measured, self.seconds = self.measured + window, self.seconds + seconds
        self.start_clock()
        entries: dict[str, float] = {
            "tokens_per_second": window.tokens / seconds,
            "trained_tokens_per_second": window.trained_tokens / seconds,
            "samples_per_second": window.samples / seconds,
            "trained_token_fraction": window.trained_tokens / max(window.tokens, 1),
            "padding_fraction": 1 - window.tokens / max(window.positions, 1),
        }
        return {**entries, **{f"total_{name}": value for name, value in dataclasses.asdict(total).items()}}
