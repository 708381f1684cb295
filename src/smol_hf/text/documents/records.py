"""Records with a document under one key: JSON lines, JSON arrays and parquet files."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetFile

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.turn_keys import IDENTIFIERS, is_given
from smol_hf.data.sources.json_source import JsonSource
from smol_hf.data.sources.parquet_source import ParquetSource, values_of
from smol_hf.data.sources.source import JoinedSource, Source
from smol_hf.support.formatting import nearest
from smol_hf.text.documents.document import CHUNK, Document, Documents, slices

READ_AT_ONCE = 1 << 22  # bytes of a parquet file
BATCH = 1 << 20  # bytes of text that are taken from a parquet file at once, unless a row is larger
MOST_ROWS = 1024
FIRST_ROWS = 100
SHOWN = 60  # characters of a value in a message


class Records(Documents):
    """The texts under one key of all records, in the order of the files.

    Raises:
        SampleError: without any record; if a parquet file lacks the column.
        ValueError: for a source of images or tar shards.
    """

    parts: list[JsonSource | ParquetSource]

    def __init__(self, source: Source, text_key: str):
        self.name, self.source, self.text_key = source.name, source, text_key
        self.remote, self.revision = source.remote, source.revision
        self.parts = []
        for part in source.parts if isinstance(source, JoinedSource) else [source]:
            if not isinstance(part, (JsonSource, ParquetSource)):
                kind = type(part).__name__.removesuffix("Source").lower()
                raise ValueError(
                    f"{self.name} holds samples ({kind} files): documents are read from text, .jsonl, .json and "
                    ".parquet files"
                )
            self.parts.append(part)
        if not len(source):
            raise SampleError(self.name, "holds no records")
        for part in self.parts:
            if isinstance(part, ParquetSource):
                check_column(part, part.groups[0][0], text_key)
        self.fingerprint = hashlib.sha256(json.dumps([text_key, source.fingerprint]).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document | SampleError]:
        for part in self.parts:
            rows = part.all_rows() if isinstance(part, JsonSource) else parquet_rows(part, self.text_key)
            for where, record in rows:
                if record is not None:
                    yield document_of(where, record, self.text_key)

    def count(self) -> int:
        return len(self.source)

    def ignored(self) -> Counter[str]:
        """Count the unused fields with a value in the first `FIRST_ROWS` records of each file."""
        found: Counter[str] = Counter()
        for part in self.parts:
            if isinstance(part, ParquetSource):
                with part.open(part.groups[0][0]) as file:
                    found.update(name for name in file.schema_arrow.names if name not in (self.text_key, *IDENTIFIERS))
                continue
            for _, record in itertools.islice(part.all_rows(), FIRST_ROWS):
                if isinstance(record, dict):
                    names = {str(name) for name, value in record.items() if is_given(value)}
                    found.update(names - {self.text_key, *IDENTIFIERS})
        return found


def parquet_rows(source: ParquetSource, text_key: str) -> Iterator[tuple[str, Any]]:
    """Yield (where, record of the one column) of each row, with only some pages of a row group in memory."""
    checked = None
    for number, (url, group) in enumerate(source.groups):
        if url != checked:
            check_column(source, url, text_key)
            checked = url
        places = iter(source.places(number))
        try:
            with source.open(url, buffer_size=READ_AT_ONCE) as file:
                for batch in file.iter_batches(rows_at_once(file, group, text_key), [group], [text_key]):
                    (column,) = batch.columns
                    for value in values_of(pyarrow.chunked_array([column])):
                        yield next(places), {text_key: value}
        except FileNotFoundError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            yield from ((place, SampleError(place, f"its row group is damaged: {error}")) for place in places)


def rows_at_once(file: ParquetFile, group: int, column: str) -> int:
    """Return how many rows hold about `BATCH` bytes of the column."""
    described = file.metadata.row_group(group)
    sizes = [described.column(number) for number in range(described.num_columns)]
    size = sum(each.total_uncompressed_size for each in sizes if each.path_in_schema == column)
    return min(max(BATCH * described.num_rows // max(size, 1), 1), MOST_ROWS)


def check_column(source: ParquetSource, url: str, text_key: str) -> None:
    """Raise SampleError if a file has no such column, or the column holds no strings."""
    with source.open(url) as file:
        schema = file.schema_arrow
    label = f"{source.prefix}{source.labels[url]}"
    if text_key not in schema.names:
        raise SampleError(label, missing(text_key, schema.names, "column"))
    kind = schema.field(text_key).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(is_kind(kind) for is_kind in texts):
        raise SampleError(label, f"its column {text_key!r} holds {kind}, but a document is a string")


def missing(text_key: str, names: list[str], what: str) -> str:
    names = [printable(str(name)) for name in names]
    there = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"has no {what} {text_key!r}{nearest(text_key, names)} (it has {there or 'none'})"


def document_of(where: str, record: Any, text_key: str) -> Document | SampleError:
    """Return the document of a record, or the error that says why it has none."""
    if isinstance(record, SampleError):
        return record
    if not isinstance(record, dict):
        return SampleError(where, f"a record is a JSON object, not {shown(record)}")
    if text_key not in record:
        return SampleError(where, missing(text_key, list(record), "key"))
    text = record[text_key]
    if not isinstance(text, str):
        return SampleError(where, f"{text_key!r} is {shown(text)}, but a document is a string")
    for piece in slices(text):
        if not piece.isascii() and (at := lone_surrogate(piece)) is not None:
            return SampleError(where, f"{text_key!r} holds {at}, a lone surrogate (half of an escaped character)")
    return Document(where, (text,) if 0 < len(text) <= CHUNK else slices(text))


def lone_surrogate(text: str) -> str | None:
    """Return the first lone surrogate in its escaped form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped as in JSON."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: Any) -> str:
    kinds = {list: "an array", dict: "an object", type(None): "null", bool: "a boolean"}
    text = printable(str(value))
    text = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return "null" if value is None else f"{kinds.get(type(value), type(value).__name__)} ({text})"
