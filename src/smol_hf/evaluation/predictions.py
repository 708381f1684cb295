"""`predictions.jsonl`: a line per answer, written as answers come, so that an interrupted evaluation continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.evaluation.baselines import ASKED
from smol_hf.evaluation.tasks import Question
from smol_hf.metrics.scores import METRICS
from smol_hf.support.atomic import atomic_file
from smol_hf.support.sample_lists import line_of, whole_lines

FILE_NAME, SETTINGS, RESULTS = "predictions.jsonl", "settings.json", "results.json"
TEXTS = ("sample", "view", "prediction")  # in each entry
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


class Predictions:
    """The answers in a folder, by (view, name of the row).

    Args:
        folder: made if it is missing.
        settings: what the answers depend on. A folder with answers must have the same.

    Raises:
        ValueError: for a folder with answers of other settings, and for one that another process writes.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.path = folder / FILE_NAME
        settings = json.loads(json.dumps(settings))  # lists instead of tuples, as in the file
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".lock")
        try:
            self.lock.acquire(blocking=False)
        except Timeout as error:
            raise ValueError(f"another process evaluates into {folder}: wait, or choose another --output") from error
        self.entries: dict[tuple[str, str], dict[str, Any]] = {}
        if self.path.is_file():
            refuse_other_settings(folder, settings)
            written = filter(is_whole, read_predictions(self.path))
            self.entries = {(each["view"], each["sample"]): each for each in written}
            self.end = self.path.stat().st_size
            content = self.path.read_bytes()
            self.cut(content.rfind(b"\n") + 1)  # a line that a killed process has begun
        else:
            self.end = 0
        with atomic_file(folder / SETTINGS) as file:
            file.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def cut(self, end: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(end)
        self.end = end

    def add(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append entries. Raises OSError if they cannot be written, such as on a full disk; earlier ones are kept."""
        entries = list(entries)
        content = "".join(map(line_of, entries)).encode()
        try:
            with self.path.open("ab") as file:
                file.write(content)
        except OSError as error:
            if self.path.is_file():
                self.cut(self.end)
            problem = f"{self.path} cannot be written: {error.strerror}. Earlier answers are kept: free space, then "
            raise OSError(f"{problem}repeat the command") from error
        self.end += len(content)
        self.entries |= {(each["view"], each["sample"]): each for each in entries}

    def sort(self, questions: Sequence[Question]) -> None:
        """Rewrite the file in the order of the data, the same for any size of batches."""
        place = {each.where: number for number, each in enumerate(questions)}
        known = [each for each in self.entries.values() if each["sample"] in place]
        known.sort(key=lambda each: (each["view"] != ASKED, each["view"], place[each["sample"]]))
        with atomic_file(self.path) as file:
            file.write_text("".join(map(line_of, known)), encoding="utf-8")
        self.end = self.path.stat().st_size

    def texts(self, view: str) -> dict[str, str]:
        """Return {name of the row: answer} of a view."""
        return {where: each["prediction"] for (known, where), each in self.entries.items() if known == view}


def default_folder(checkpoint: str | Path) -> Path:
    """Return `evaluation` next to a checkpoint folder, or here for an id of the Hub."""
    path = Path(checkpoint)
    return path.resolve().parent / "evaluation" if path.is_dir() else Path("evaluation")


def folder_fingerprint(folder: Path) -> str:
    """Hash the files of a checkpoint that decide its answers (samples of large ones)."""
    files = sorted(each for each in folder.iterdir() if each.suffix in MODEL_FILES)
    digests = digests_of_files(files, whole=are_read_whole(files))
    return short_hash("".join([*(each.name for each in files), *digests]))


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read, so {folder} cannot be continued: choose another --output") from error
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            change = f"with {name.replace('_', ' ')} {before.get(name)!r}, now {settings.get(name)!r}"
            if name == "data_fingerprint":
                change = "to other data (other rows, or changed files)"
            raise ValueError(f"{folder} has answers {change}: choose another --output, or remove the folder")


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read the complete entries of a file of predictions. Raises ValueError for a file without any."""
    entries = [each for each in whole_lines(path) if all(isinstance(each.get(k), str) for k in TEXTS)]
    if not entries and path.stat().st_size and b"\n" in path.read_bytes():
        raise ValueError(f"{path} has no line with sample, view and prediction: name a file that evaluate wrote")
    return entries


def is_whole(entry: dict[str, Any]) -> bool:
    """Return False for a damaged entry: its row is answered again."""
    nats, tokens = entry.get("nats", ""), entry.get("answer_tokens")
    return isinstance(nats, (float, int, type(None))) and isinstance(tokens, int)


def scores_of(answer: str, question: Question) -> dict[str, float]:
    """Return the score of an answer by each metric of its question."""
    return {name: METRICS[name].score(answer, question.references) for name in question.metrics}
