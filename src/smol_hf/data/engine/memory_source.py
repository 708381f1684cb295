"""Rows that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from smol_hf.data.engine.source import Source


class MadeSource(Source):
    """Rows that are a function of their number, such as drawn pages: `make(number)` gives (where, record)."""

    rows_anywhere = True

    def __init__(self, name: str, rows: int, make: Callable[[int], tuple[str, Any]], *, fingerprint: str):
        self.name, self.make, self.fingerprint = name, make, fingerprint
        self.block_sizes = np.ones(rows, dtype=np.int64)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return [self.make(block)]
