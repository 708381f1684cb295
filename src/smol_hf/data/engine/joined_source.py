"""Several files of one kind as one source."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from smol_hf.data.engine.source import SMALL, Source


class JoinedSource(Source):
    """The rows of all parts, in their order. Names of rows are those of the parts, which must differ."""

    def __init__(self, name: str, parts: list[Source]):
        self.name, self.parts = name, parts
        self.files = [file for part in parts for file in part.files]
        self.first_blocks = np.cumsum([0, *(len(part.block_sizes) for part in parts)])
        self.block_sizes = np.concatenate([np.asarray(part.block_sizes, dtype=np.int64) for part in parts])
        self.rows_anywhere = all(part.rows_anywhere for part in parts) and (
            bool((self.block_sizes == 1).all()) or sum(map(self.bytes_of, range(len(self.block_sizes)))) <= SMALL
        )
        self.fingerprint = hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        return self.parts[0].prefix

    @prefix.setter
    def prefix(self, value: str) -> None:
        for part in self.parts:
            part.prefix = value

    def place(self, block: int) -> tuple[Source, int]:
        """(part, block in it)."""
        part = int(np.searchsorted(self.first_blocks, block, side="right")) - 1
        return self.parts[part], block - int(self.first_blocks[part])

    def bytes_of(self, block: int) -> int:
        part, inside = self.place(block)
        return part.bytes_of(inside)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        part, inside = self.place(block)
        return part.read_block(inside)
