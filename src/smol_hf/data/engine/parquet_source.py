"""Parquet files, here or anywhere that fsspec reaches: a block is a row group, the least that can be read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.source import Source

SMALL = 64 * 1024 * 1024  # bytes of a source whose rows are shuffled all over, since its blocks stay in memory


class ParquetSource(Source):
    """The row groups of some files, in the order of their names. Images stay encoded: nothing is decoded here.

    Args:
        urls: paths or addresses that fsspec knows (`s3://…`, `hf://datasets/owner/name/…`).

    Raises:
        SampleError: for a file that is no parquet file, or cut off.
    """

    def __init__(self, name: str, urls: list[str], *, columns: list[str] | None = None):
        self.name, self.columns = name, columns
        self.groups: list[tuple[str, int]] = []
        self.first_rows: list[int] = []
        self.block_sizes = []
        facts, size = [], 0
        for url in sorted(urls):
            metadata = self.open(url).metadata
            row = 1
            for group in range(metadata.num_row_groups):
                described = metadata.row_group(group)
                self.groups.append((url, group))
                self.first_rows.append(row)
                self.block_sizes.append(described.num_rows)
                facts.append((file_name(url), group, described.num_rows, described.total_byte_size))
                row += described.num_rows
                size += described.total_byte_size
        self.rows_anywhere = size <= SMALL
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def open(self, url: str) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(fsspec.open(url, "rb").open())
        except (pyarrow.ArrowException, OSError) as error:
            raise SampleError(file_name(url), f"not readable as parquet: {error}") from error

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        url, group = self.groups[block]
        first = self.first_rows[block]
        places = [f"{self.prefix}{file_name(url)}:{first + row}" for row in range(self.block_sizes[block])]
        try:
            with self.open(url) as file:
                records = file.read_row_group(group, columns=self.columns).to_pylist()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            return [(place, SampleError(place, f"its row group is damaged: {error}")) for place in places]
        return list(zip(places, records))


def file_name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]
