"""JSON lines, and JSON files that hold one array: any row, without the file in memory. A block is one row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.source import Source

CHUNK = 1 << 24
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLinesSource(Source):
    """One record per line. Rows count from 1, blank lines included, as an editor shows them."""

    rows_anywhere = True

    def __init__(self, name: str, path: str | Path):
        self.name, self.path = name, Path(path)
        digest = hashlib.sha256()
        ends = []
        with self.path.open("rb") as file:
            position = 0
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                ends.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10) + position + 1)
                position += len(chunk)
        line_ends = np.concatenate([*ends, np.empty(0, dtype=np.int64)])
        if position and (not len(line_ends) or line_ends[-1] != position):
            line_ends = np.append(line_ends, position)  # the last line has no line break
        self.fingerprint = digest.hexdigest()
        self.block_sizes = np.ones(len(line_ends), dtype=np.int64)
        self.offsets = np.concatenate([[0], line_ends])

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        start, end = int(self.offsets[block]), int(self.offsets[block + 1])
        with self.path.open("rb") as file:
            file.seek(start)
            where = f"{self.prefix}{self.path.name}:{block + 1}"
            return [(where, parse_line(file.read(end - start), where))]


def parse_line(line: bytes, where: str) -> Any:
    """The record of a line; None for a blank one, a `SampleError` for one that is not JSON."""
    line = line.removeprefix(BYTE_ORDER_MARK) if where.endswith(":1") else line
    return parse_element(line, where) if line.strip() else None


class JsonArraySource(Source):
    """One array of records. The file is read through once, to find where each record stands.

    Raises:
        SampleError: when the file holds something else than one array, or is cut off.
    """

    rows_anywhere = True

    def __init__(self, name: str, path: str | Path):
        self.name, self.path = name, Path(path)
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            self.spans = np.array(list(elements(file, self.path.name, digest)), dtype=np.int64).reshape(-1, 2)
        self.fingerprint = digest.hexdigest()
        self.block_sizes = np.ones(len(self.spans), dtype=np.int64)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        start, end = (int(place) for place in self.spans[block])
        with self.path.open("rb") as file:
            file.seek(start)
            where = f"{self.prefix}{self.path.name}:{block + 1}"
            return [(where, parse_element(file.read(end - start), where))]


def parse_element(text: bytes, where: str) -> Any:
    try:
        record = parse_json(text.decode("utf-8"))
        # None would stand for a line without a record.
        return record if record is not None else SampleError(where, "a record is a JSON object, not null")
    except (ValueError, RecursionError) as error:
        return SampleError(where, f"not valid JSON: {error}")


# Whole strings are one match, so that brackets and commas in them do not count. A string that a chunk cuts is found
# by its opening quote alone, and looked at again with the next chunk.
STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|"|[\[\]{},]', re.DOTALL)


def elements(file: BinaryIO, name: str, digest) -> Iterator[tuple[int, int]]:
    """(first byte, byte after the last) of each element of the array that a file holds."""
    depth, start, position, waiting = 0, 0, 0, b""
    found = closed = False
    if file.read(4096).removeprefix(BYTE_ORDER_MARK).lstrip()[:1] not in (b"[", b""):
        raise SampleError(name, "a .json data file holds one array of records; for one per line use .jsonl")
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        text = waiting + chunk
        used = len(text)
        for match in STRUCTURE.finditer(text):
            token, at = match.group(), position + match.start()
            if token == b'"':
                used = match.start()  # cut off here: the rest of the string comes with the next chunk
                break
            if closed:
                raise SampleError(name, f"not valid JSON: more after the array's end, at byte {at}")
            if token in (b"[", b"{"):
                depth += 1
                if depth == 1:
                    start = at + 1
            elif token in (b"]", b"}"):
                depth -= 1
                if depth == 0:
                    closed = True
                    if found or not is_blank(file, start, at):
                        yield start, at
            elif token == b"," and depth == 1:
                yield start, at
                found, start = True, at + 1
        waiting, position = text[used:], position + used
    if waiting or not closed:
        raise SampleError(name, "not valid JSON: the file ends before its array does; was it cut off?")


def is_blank(file: BinaryIO, start: int, end: int) -> bool:
    here = file.tell()
    file.seek(start)
    blank = not file.read(end - start).strip()
    file.seek(here)
    return blank


def parse_json(text: str) -> Any:
    """Raises ValueError for what is not JSON, and for a key that stands twice."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
        return result

    return json.loads(text, object_pairs_hook=object_of)
