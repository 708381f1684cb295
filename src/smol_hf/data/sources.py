"""Files of records → records with the place where each stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import SampleError


def read_records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (`file:row`, record) of a JSON-lines file, or of a JSON file that holds one array. Rows count from 1.

    A row that is not valid JSON is yielded as the `SampleError` that says so, so that the caller decides whether to
    stop, and no row after it is lost.

    Raises:
        FileNotFoundError: when there is no such file.
        SampleError: when a JSON array does not parse as a whole.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} does not exist")
    if path.suffix == ".json":
        yield from read_array(path)
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                yield where, parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield where, SampleError(where, f"not valid JSON: {error}")


def read_array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = parse_json(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SampleError(path.name, f"not valid JSON: {error} (one object per line? then name it .jsonl)") from error
    if not isinstance(records, list):
        raise SampleError(path.name, "a .json data file holds one array of records; for one per line use .jsonl")
    for number, record in enumerate(records, start=1):
        yield f"{path.name}:{number}", record


def parse_json(text: str) -> Any:
    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
        return result

    return json.loads(text, object_pairs_hook=object_of)
