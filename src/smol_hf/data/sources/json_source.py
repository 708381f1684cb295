"""JSON lines, and JSON files of one array, local or remote: any row, without the file in memory.

The file is read once to find the place of each record.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import file_name, is_remote, open_file, read_range, remembered
from smol_hf.data.sources.source import SMALL, Source

CHUNK = 1 << 24
BLOCK = 1 << 20  # bytes of a remote file that are read at once
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n"


class JsonSource(Source):
    """Records at known places of a file. A block is one row of a local file, or about 1 MiB of a remote one.

    Args:
        path: path or URL of the file.
        label: name of the file in the names of its rows.

    Attributes:
        starts, ends: (rows,) places of each record.
        numbers: (rows,) number of each record's line or element, from 1.
        firsts: (blocks + 1,) the first row of each block, and the number of rows.
    """

    def __init__(self, name: str, path: str | Path, label: str | None = None):
        self.name, self.path = name, str(path)
        self.files = [self.path]
        self.label = label or file_name(self.path)
        kind = f"{type(self).__name__} 2"
        *places, self.fingerprint = remembered(self.path, kind, self.index)
        self.starts, self.ends, self.numbers = (np.asarray(each, dtype=np.int64) for each in places)
        grouped = is_remote(self.path)
        self.firsts = blocks_of(self.starts, self.ends) if grouped else np.arange(len(self.starts) + 1)
        self.block_sizes = np.diff(self.firsts)
        self.rows_anywhere = not grouped or not len(self.ends) or int(self.ends[-1]) <= SMALL

    def index(self) -> tuple[Any, ...]:
        """Read the file, and return (starts, ends, numbers, SHA-256)."""
        digest = hashlib.sha256()
        with open_file(self.path, ahead=True) as file:
            places: Any = self.places(file, digest)
        if is_remote(self.path):
            places = [each.tolist() for each in places]
        return *places, digest.hexdigest()

    def places(self, file: BinaryIO, digest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (starts, ends, numbers) of all records, and update `digest` with the file."""
        raise NotImplementedError

    @staticmethod
    def parse(text: bytes, where: str) -> Any:
        """Return the record in a text, or the `SampleError` about it."""
        raise NotImplementedError

    def bytes_of(self, block: int) -> int:
        first, last = self.firsts[block], self.firsts[block + 1]
        return int(self.ends[last - 1] - self.starts[first])

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return self.read_rows(int(self.firsts[block]), int(self.firsts[block + 1]))

    def rows_between(self, first: int, last: int) -> Iterator[tuple[str, Any]]:
        firsts = first + blocks_of(self.starts[first:last], self.ends[first:last])
        for start, end in itertools.pairwise(firsts.tolist()):
            yield from self.read_rows(start, end)

    def read_rows(self, first: int, last: int) -> list[tuple[str, Any]]:
        """Read the rows from `first` up to `last` with one request."""
        starts, ends, numbers = (each[first:last].tolist() for each in (self.starts, self.ends, self.numbers))
        begin, rows = starts[0], []
        content = read_range(self.path, begin, ends[-1])
        for start, end, number in zip(starts, ends, numbers):
            where = f"{self.prefix}{self.label}:{number}"
            rows.append((where, self.parse(content[start - begin : end - begin], where)))
        return rows


def blocks_of(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the first row of each block of about `BLOCK` bytes, and the number of rows."""
    firsts = [0]
    while firsts[-1] < len(starts):
        fitting = int(np.searchsorted(ends, starts[firsts[-1]] + BLOCK, side="right"))
        firsts.append(max(fitting, firsts[-1] + 1))
    return np.array(firsts)


def parse_element(text: bytes, where: str) -> Any:
    try:
        record = parse_json(text.decode("utf-8"))
        # None means a line without a record.
        return record if record is not None else SampleError(where, "a record is a JSON object, not null")
    except (ValueError, RecursionError) as error:
        return SampleError(where, f"not valid JSON: {error}")


def parse_line(text: bytes, where: str) -> Any:
    """Return the record of a line; None for a blank one, a `SampleError` for one that is not JSON."""
    text = text.removeprefix(BYTE_ORDER_MARK) if where.endswith(":1") else text
    return parse_element(text, where) if text.strip() else None


class JsonLinesSource(JsonSource):
    """One record per line. Lines are numbered from 1, with blank ones, which are not rows."""

    parse = staticmethod(parse_line)

    def places(self, file: BinaryIO, digest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # The end of each line's text, and the start of the next line: a line break is \n or \r\n.
        text_ends, line_ends, position, last = [], [], 0, b""
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            breaks = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10)
            after_return = np.frombuffer(last + chunk, dtype=np.uint8)[breaks + len(last) - 1] == 13
            text_ends.append(breaks + position - after_return)
            line_ends.append(breaks + position + 1)
            position, last = position + len(chunk), chunk[-1:]
        if position and last != b"\n":
            text_ends.append(np.array([position]))
            line_ends.append(np.array([position]))
        ends = np.concatenate([np.zeros(1, dtype=np.int64), *line_ends])
        starts, ends = ends[:-1], ends[1:]
        rows = np.flatnonzero(np.concatenate([np.zeros(0, dtype=np.int64), *text_ends]) > starts)
        return starts[rows], ends[rows], rows + 1


class JsonArraySource(JsonSource):
    """One array of records.

    Raises:
        SampleError: for a file that is not one complete array.
    """

    parse = staticmethod(parse_element)

    def places(self, file: BinaryIO, digest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans = np.array(list(elements(file, self.label, digest)), dtype=np.int64).reshape(-1, 2)
        return spans[:, 0], spans[:, 1], np.arange(1, len(spans) + 1)


# A string is one match, so that brackets and commas in it do not count. A string that a chunk cuts matches only its
# opening quote, and is scanned again with the next chunk.
STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|"|[\[\]{},]', re.DOTALL)


def elements(file: BinaryIO, name: str, digest) -> Iterator[tuple[int, int]]:
    """Yield (first byte, byte after the last) of each element of the array in a file."""
    depth, start, position, waiting = 0, 0, 0, b""
    found, closed, end = False, False, 0
    beginning = file.read(4096)
    mark = len(BYTE_ORDER_MARK) if beginning.startswith(BYTE_ORDER_MARK) else 0
    if beginning[mark:].lstrip()[:1] not in (b"[", b""):
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
            if depth == 0 and (token != b"[" or not is_blank(file, mark, at)):
                raise SampleError(name, f"not valid JSON: the array begins at byte {at}, and other text before it")
            if token in (b"[", b"{"):
                depth += 1
                if depth == 1:
                    start = at + 1
            elif token in (b"]", b"}"):
                depth -= 1
                if depth == 0:
                    if token != b"]":
                        raise SampleError(name, f"not valid JSON: the array ends with }} at byte {at}")
                    closed, end = True, at + 1
                    if found or not is_blank(file, start, at):
                        yield start, at
            elif token == b"," and depth == 1:
                yield start, at
                found, start = True, at + 1
        after = text[max(end - position, 0) :] if closed else b""
        if after.strip(BLANKS):
            at = position + len(text) - len(after.lstrip(BLANKS))
            raise SampleError(name, f"not valid JSON: more after the array's end, at byte {at}")
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
    """Parse JSON. Raises ValueError for invalid JSON and for duplicate keys."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
        return result

    return json.loads(text, object_pairs_hook=object_of)
