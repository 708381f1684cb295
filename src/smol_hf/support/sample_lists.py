"""Files that name samples, one JSON line each: `skipped.jsonl` and `shortened.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

LEDGERS = ("skipped.jsonl", "shortened.jsonl")


def line_of(entry: dict) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def append_entries(path: Path, entries: Iterable[dict]) -> None:
    """Add entries to a file, which is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(map(line_of, entries))


def whole_lines(path: Path) -> Iterator[dict]:
    """Yield the complete entries of a file. An incomplete last line is ignored: the run meets its sample again."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:  # texts may have other line breaks
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("sample"), str):
                yield entry
