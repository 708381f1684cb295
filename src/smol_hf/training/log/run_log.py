"""The log of a run read again: by itself, while the run goes on, and after a kill.

It needs no other file of the run, and imports no library.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from smol_hf.support.formatting import is_number

FILE_NAME = "log.jsonl"
RATES = ("tokens_per_second", "trained_tokens_per_second", "samples_per_second")
COUNTERS = ("total_tokens", "total_samples", "total_skipped_samples", "total_skipped_steps")
LOWEST = ("eval_loss", "eval_perplexity", "eval_bits_per_byte")  # of these, the lowest is the best
FACTS_OF_AN_EVALUATION = ("eval_seconds", "eval_tokens", "eval_answers", "eval_runtime")


@dataclass
class RunLog:
    """The entries of a log.

    Attributes:
        name: shown in tables and charts.
        unreadable: lines that cannot be read. An incomplete last line does not count: it is being written.
        seconds: since the last change of the file.
    """

    folder: Path
    name: str
    entries: list[dict[str, Any]]
    unreadable: int = 0
    seconds: float = 0.0

    def values(self, key: str) -> dict[int, float]:
        """Return the finite values of a key by step; of a step that is logged twice, the last."""
        found = ((entry.get("step"), entry.get(key)) for entry in self.entries)
        numbers = ((step, value) for step, value in found if is_number(step) and is_number(value))
        return dict(sorted((int(step), float(value)) for step, value in numbers))  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """Return the keys of all entries, in the order of their first use."""
        return list(dict.fromkeys(key for entry in self.entries for key in entry))

    @property
    def has_ended(self) -> bool:
        """Return True if the training came to its end, or a signal stopped it."""
        return any("train_runtime" in entry for entry in self.entries[-3:])


def read_run(folder: Path, name: str | None = None) -> RunLog:
    """Read the log of a run. Raises FileNotFoundError, and ValueError for another file of that name."""
    path = folder / FILE_NAME if folder.is_dir() else folder
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {FILE_NAME}")
    age = max(0.0, time.time() - path.stat().st_mtime)
    lines = path.read_bytes().split(b"\n")
    entries, unreadable = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line) if line.strip() else {}
            if not isinstance(entry, dict):
                raise ValueError
        except ValueError:
            unreadable += number < len(lines)
            continue
        if entry:
            entries.append(entry)
    found = RunLog(folder, name or folder.name, entries, unreadable, age)
    if not any(is_number(entry.get("step")) for entry in entries) and (entries or unreadable):
        raise ValueError(f"{path} is not the log of a run: no line has a step")
    return found


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, with those inside them (stages, runs of a sweep)."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "checkpoint")))
        if FILE_NAME in files:
            yield Path(place)


def facts_of(run: RunLog) -> dict[str, Any]:
    """Return the numbers of a run for a summary: its end, losses, rates, scores, and those of each source."""
    losses, keys = run.values("loss"), run.names()
    steps = [entry["step"] for entry in run.entries if is_number(entry.get("step"))]
    logged = {entry["step"] for entry in run.entries if "loss" in entry and is_number(entry.get("step"))}
    facts: dict[str, Any] = {
        "name": run.name,
        "folder": str(run.folder),
        "state": "ended" if run.has_ended else "no end yet",
        "seconds_since": round(run.seconds, 1),
        "unreadable_lines": run.unreadable,
        "steps": int(max(steps, default=0)),
        "epoch": last_of(run.values("epoch")),
        "first_loss": next(iter(losses.values()), None),
        "last_loss": last_of(losses),
        "unknown_losses": len(logged) - len(losses),
    }
    facts |= {key: last_of(run.values(key)) for key in COUNTERS}
    facts |= {f"median_{key}": median(values) if (values := list(run.values(key).values())) else None for key in RATES}
    facts["learning_rates"] = {key: last_of(run.values(key)) for key in keys if key.startswith("learning_rate")}
    scores = [key for key in keys if is_score(key) and "/" not in key]
    facts["scores"] = {key: score_of(key, values) for key in scores if (values := run.values(key))}
    sources: dict[str, dict[str, float | None]] = {}
    for key in keys:
        kind, slash, source = key.partition("/")
        if slash and (kind == "loss" or (kind.startswith("eval_") and not kind.startswith("eval_rewards"))):
            sources.setdefault(source, {})[kind] = last_of(run.values(key))
    facts["sources"] = sources
    return facts


def is_score(key: str) -> bool:
    """Return True for a loss or a score of a validation."""
    return key.startswith("eval_") and key not in FACTS_OF_AN_EVALUATION


def last_of(values: dict[int, float]) -> float | None:
    return values[max(values)] if values else None


def score_of(key: str, values: dict[int, float]) -> dict[str, float]:
    """Return the last value of a score, and the best with its step."""
    best = (min if key in LOWEST else max)(values, key=lambda step: values[step])
    return {"last": values[max(values)], "best": values[best], "best_step": best}
