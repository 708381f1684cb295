"""The first rows of a source, for a look that need not read all of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from smol_hf.data.engine.source import Source


class Head(Source):
    """The first `rows` rows of `source`, or all where there are fewer; they keep their names and places."""

    def __init__(self, source: Source, rows: int):
        self.source, self.name, self.prefix = source, source.name, source.prefix
        self.rows_anywhere = source.rows_anywhere
        self.fingerprint = f"{source.fingerprint}:{rows}"
        sizes = np.asarray(source.block_sizes, dtype=np.int64)
        left = rows - (np.cumsum(sizes) - sizes)  # rows still wanted where a block begins
        self.block_sizes = [int(size) for size in np.minimum(sizes, left) if size > 0]

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return self.source.read_block(block)[: self.block_sizes[block]]
