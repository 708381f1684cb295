"""Rows that are at hand, or made when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smol_hf.data.engine.source import Source


class MemorySource(Source):
    """`rows`: (where, record) pairs; a record may be a finished `Conversation`."""

    rows_anywhere = True

    def __init__(self, name: str, rows: Sequence[tuple[str, Any]], *, fingerprint: str | None = None):
        self.name, self.rows = name, rows
        self.fingerprint = fingerprint or hashlib.sha256(repr(list(rows)).encode()).hexdigest()
        self.block_sizes = np.ones(len(rows), dtype=np.int64)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return [self.rows[block]]


class MadeSource(Source):
    """Rows that are a function of their number, such as drawn pages: `make(number)` gives (where, record)."""

    rows_anywhere = True

    def __init__(self, name: str, rows: int, make: Callable[[int], tuple[str, Any]], *, fingerprint: str):
        self.name, self.make, self.fingerprint = name, make, fingerprint
        self.block_sizes = np.ones(rows, dtype=np.int64)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return [self.make(block)]
