"""The log of a run read again: by itself, line by line while the run goes on, and after a kill. It imports no library.

A summary needs no other file of the run.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from smol_hf.support.formatting import is_number
from smol_hf.training.checkpoint.checkpoints import list_checkpoints
from smol_hf.training.log.lines import lines_of, listed_step

FILE_NAME, SKIPPED_STEPS = "log.jsonl", "skipped_steps.jsonl"
RATES = ("tokens_per_second", "trained_tokens_per_second", "samples_per_second")
COUNTERS = ("total_tokens", "total_samples", "total_skipped_samples", "total_skipped_steps", "total_spikes")
LOWEST = ("eval_loss", "eval_perplexity", "eval_bits_per_byte")  # of these, the lowest is the best
FACTS_OF_AN_EVALUATION = ("eval_seconds", "eval_tokens", "eval_answers", "eval_runtime")

OWNER = ".run.json"  # names the process that uses a folder, which removes it at its end
POLL = 1.0  # seconds between two looks at a run
GRACE = 10.0  # seconds until a new file of another machine is visible on a shared file system
SHOWN_BEFORE = 10  # entries of a log that are shown first


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


class GrowingFile:
    """A file of JSON lines that a run writes, or will write."""

    def __init__(self, path: Path):
        self.path, self.offset = path, 0

    def new_entries(self) -> list[dict[str, Any]]:
        """Return the entries since the last call. A line without its end waits, and a damaged one is left out.

        A resumed run writes the file again, without the lines after its checkpoint. The lines until then are not new.
        """
        try:
            with self.path.open("rb") as file:
                is_longer = os.fstat(file.fileno()).st_size >= self.offset
                file.seek(self.offset if is_longer else 0)
                content = file.read()
        except OSError:  # it is missing, or a network file system is away for a moment
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self.offset = len(complete) + (self.offset if is_longer else 0)
        return list(entries_of(complete)) if is_longer else []


def entries_of(lines: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines that are JSON mappings."""
    for line in lines.splitlines():
        try:
            if isinstance(entry := json.loads(line), dict):
                yield entry
        except ValueError:
            continue


class FollowedRun:
    """The files of a run that is followed. `recent` are the last entries of its log."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log, self.steps = GrowingFile(folder / FILE_NAME), GrowingFile(folder / SKIPPED_STEPS)
        self.recent = self.log.new_entries()[-SHOWN_BEFORE:]
        self.steps.new_entries()  # the entries of the log count them
        self.saved = list_checkpoints(folder)

    def earlier_lines(self) -> Iterator[str]:
        yield from (line for entry in self.recent for line in lines_of(entry))
        if self.saved:
            yield f"the newest checkpoint is {self.saved[0].name}"

    def new_lines(self) -> list[str]:
        lines = [listed_step(entry) for entry in self.steps.new_entries()]
        entries = self.log.new_entries()
        self.recent = [*self.recent, *entries][-SHOWN_BEFORE:]
        lines += [line for entry in entries for line in lines_of(entry)]
        before, self.saved = self.saved, list_checkpoints(self.folder)
        return lines + [f"{each.name} is saved" for each in reversed(self.saved) if each not in before]

    def is_finished(self) -> bool:
        """Return True if the run trained all its steps."""
        try:
            record = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and "steps" in record

    def end(self, killed: bool) -> str:
        """Return how the run ended, in words."""
        if self.is_finished():
            cause = "the run ended"
        elif killed:
            cause = "the process of the run was killed"
        elif any("train_runtime" in entry for entry in self.recent[-3:]):
            cause = "a signal interrupted the run"
        else:
            cause = "the run stopped with an error, which its output names"
        last = next((entry["step"] for entry in reversed(self.recent) if is_number(entry.get("step"))), 0)
        newest = f"; its newest checkpoint is {self.saved[0].name}" if self.saved else ""
        return f"{cause}, after step {last:,}{newest}"


def process_of(folder: Path) -> tuple[str, bool | None] | None:
    """Return the process that uses a folder in words, and if it is alive; None without one.

    A process of another machine counts as alive. If its file cannot be read, None says that this is unknown.
    """
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        number, host = int(owner["process"]), owner["host"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):  # it is damaged, or the file system is away
        return "a process", None
    is_alive = True
    if os.name == "posix" and host == socket.gethostname():
        try:
            os.kill(number, 0)  # sends nothing
        except ProcessLookupError:
            is_alive = False
        except PermissionError:
            pass
    return f"process {number} on {host}", is_alive


def follow(folder: Path) -> Iterator[str]:
    """Yield the last lines of a run, then new ones as it writes them, and how it ended.

    It looks once per second, so it works on a shared file system, and before the run begins.

    Raises ValueError for a folder that holds several runs.
    """
    folder = folder.parent if folder.is_file() else folder
    if not (folder / FILE_NAME).exists() and (inside := [str(each) for each in find_runs(folder)]):
        raise ValueError(f"{folder} is not the folder of one run: name one of {', '.join(inside)}")
    run = FollowedRun(folder)
    yield from run.earlier_lines()
    was_used, quiet, said = False, 0.0, ""
    while True:
        process = process_of(folder)  # before the files are read, so that its last lines are not missed
        owner, is_alive = process or ("", False)
        was_killed = process is not None and is_alive is False
        yield from (lines := run.new_lines())
        was_used |= bool(is_alive)
        quiet = 0.0 if lines or is_alive else quiet + POLL
        stopped = (was_used or run.recent) and quiet >= (2 * POLL if was_used and is_alive is False else GRACE)
        if not is_alive and (was_killed or stopped or run.is_finished()):
            yield run.end(killed=was_killed)
            return
        if not run.recent:
            words = f"{owner} prepares the run" if is_alive else f"waiting for a run in {folder}"
            yield from [words] if words != said else []
            said = words
        time.sleep(POLL)
