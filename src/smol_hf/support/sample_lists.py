"""Files that name samples, one JSON line each: `skipped.jsonl` and `shortened.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

LEDGERS = ("skipped.jsonl", "shortened.jsonl")


def whole_lines(path: Path) -> Iterator[dict]:
    """Yield the complete entries of a file. An incomplete last line is ignored: the run meets its sample again."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("sample"), str):
            yield entry
