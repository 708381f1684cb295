"""Parquet files, local or remote. A block is a row group, the smallest unit of reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import for_each, is_remote, labels_of, open_file, remote_fingerprint
from smol_hf.data.sources.fingerprints import digests_of, parquet_footer
from smol_hf.data.sources.source import SMALL, Source

AT_A_TIME = 1000  # rows of a row group that become Python objects together
# A date after the year 9999, a struct with a field twice, text that is not UTF-8.
NO_VALUE = (pyarrow.ArrowException, ValueError, OverflowError)


@dataclass(frozen=True)
class Unreadable:
    """A value of a record that Python cannot represent. Adapters refuse it by name, as any value of a wrong type."""

    reason: str

    def __repr__(self) -> str:
        return f"<unreadable: {self.reason}>"


def rows_of(table: pyarrow.Table) -> list[dict[str, Any]]:
    """Return the rows, with an `Unreadable` for each value that cannot be read."""
    names = table.column_names
    try:
        return table.to_pylist()
    except NO_VALUE:
        columns = [values_of(table.column(number)) for number in range(len(names))]
        return [dict(zip(names, row)) for row in zip(*columns)]


def values_of(column: pyarrow.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except NO_VALUE:
        return [value_of(column[row]) for row in range(len(column))]


def value_of(scalar: pyarrow.Scalar) -> Any:
    try:
        return scalar.as_py()
    except NO_VALUE as error:
        return Unreadable(str(error))


class ParquetSource(Source):
    """The row groups of some files, in the order of their names. Images stay encoded.

    Args:
        urls: paths or URLs of fsspec (`s3://…`, `hf://datasets/owner/name/…`).

    Raises:
        SampleError: for a file that is not complete parquet. UnreachableError: for an unreachable remote file.
    """

    def __init__(self, name: str, urls: list[str], *, columns: list[str] | None = None):
        self.name, self.columns, self.files = name, columns, sorted(urls)
        self.labels = labels_of(urls)
        self.groups: list[tuple[str, int]] = []
        self.first_rows: list[int] = []
        self.block_sizes = []
        self.sizes: list[int] = []
        facts = []
        for url, metadata in zip(sorted(urls), for_each(self.metadata, sorted(urls))):
            facts.append((self.labels[url], *(remote_fingerprint(url) if is_remote(url) else [parquet_footer(url)])))
            row = 1
            for group in range(metadata.num_row_groups):
                described = metadata.row_group(group)
                self.groups.append((url, group))
                self.first_rows.append(row)
                self.block_sizes.append(described.num_rows)
                self.sizes.append(described.total_byte_size)
                facts.append((self.labels[url], group, described.num_rows, described.total_byte_size))
                row += described.num_rows
        self.rows_anywhere = sum(self.sizes) <= SMALL
        facts += digests_of(urls)
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def metadata(self, url: str) -> pyarrow.parquet.FileMetaData:
        with self.open(url) as file:
            try:
                names = file.schema_arrow.names
            except (pyarrow.ArrowException, UnicodeDecodeError) as error:
                raise SampleError(self.labels[url], f"the names of its columns cannot be read: {error}") from error
            if twice := [name for name in names if names.count(name) > 1]:
                raise SampleError(self.labels[url], f"has two columns called {twice[0]!r}: rename one of them")
            return file.metadata

    def open(self, url: str, *, buffer_size: int = 0) -> pyarrow.parquet.ParquetFile:
        """Open a file. `buffer_size`: read columns in pieces of this many bytes."""
        pre_buffer = is_remote(url) and not buffer_size
        try:
            return pyarrow.parquet.ParquetFile(open_file(url), pre_buffer=pre_buffer, buffer_size=buffer_size)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise SampleError(self.labels[url], f"not readable as parquet: {error}") from error

    def bytes_of(self, block: int) -> int:
        return self.sizes[block]

    def places(self, block: int, first: int = 0, last: int | None = None) -> list[str]:
        """Return the names of the rows of a block, from `first` up to `last`."""
        label, number = f"{self.prefix}{self.labels[self.groups[block][0]]}", self.first_rows[block]
        return [f"{label}:{number + row}" for row in range(self.block_sizes[block])[first:last]]

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return list(self.read_part(block, 0, self.block_sizes[block]))

    def read_part(self, block: int, first: int, last: int) -> Iterator[tuple[str, Any]]:
        """Yield the rows of a row group from `first` up to `last`. Some at a time become Python objects."""
        url, group = self.groups[block]
        try:
            with self.open(url) as file:
                table = file.read_row_group(group, columns=self.columns)
        except FileNotFoundError:
            raise
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            for place in self.places(block, first, last):
                yield place, SampleError(place, f"its row group is damaged: {error}")
            return
        for start in range(first, last, AT_A_TIME):
            end = min(start + AT_A_TIME, last)
            yield from zip(self.places(block, start, end), rows_of(table.slice(start, end - start)))
