"""Rows built from whole samples: the oldest of a pool opens a row, and the largest that still fits goes on filling it.

Packing is online: it looks at a pool of some hundred planned samples, never at a whole dataset, so it works on streams
and its state is small. No sample waits for ever, since the oldest always opens the next row; none is cut, and none
is left out. Chunked best-fit-decreasing (TRL's `bfd`) fills less from the same pool, because it closes all its rows at
the end of each chunk, full or not.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planned:
    """A sample that was measured and not decoded yet.

    `reference` says where it is (any value that the caller can find it by), `num_tokens` how long it becomes, image
    tokens included, `num_tiles` how many tiles its images are.
    """

    reference: Any
    num_tokens: int
    num_tiles: int = 0


class PackingPool:
    """Planned samples that wait for a row.

    Args:
        context_length: the most tokens of a row.
        max_tiles: the most tiles of a row, which bounds the image encoder's work and memory: rows of about equal
            cost keep processes from waiting for each other. None: no bound. A single sample that has more opens a
            row and stays alone with what has no tiles.
        size: samples to look at; more fill better (at 128, 99 % and more on mixed lengths).
    """

    def __init__(self, context_length: int, *, max_tiles: int | None = None, size: int = 128):
        if context_length < 1 or size < 1 or (max_tiles is not None and max_tiles < 0):
            raise ValueError(
                f"context_length {context_length}, size {size} and max_tiles {max_tiles} must be positive"
            )
        self.context_length = context_length
        self.max_tiles = max_tiles
        self.size = size
        self.arrived = 0
        self.waiting: OrderedDict[int, Planned] = OrderedDict()  # by order of arrival, the oldest first
        self.by_length: list[tuple[int, int]] = []  # (tokens, -arrival): of equal lengths the oldest comes last

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def has_room(self) -> bool:
        return len(self.waiting) < self.size

    def add(self, sample: Planned) -> None:
        """Raises ValueError for a sample that no row can hold."""
        if not 0 < sample.num_tokens <= self.context_length:
            raise ValueError(f"{sample.num_tokens} tokens do not fit a row of {self.context_length}")
        self.waiting[self.arrived] = sample
        bisect.insort(self.by_length, (sample.num_tokens, -self.arrived))
        self.arrived += 1

    def next_row(self) -> list[Planned]:
        """The samples of the next row, taken out of the pool. Empty when nothing waits."""
        if not self.waiting:
            return []
        oldest = next(iter(self.waiting))
        first = self.waiting.pop(oldest)
        del self.by_length[bisect.bisect_left(self.by_length, (first.num_tokens, -oldest))]
        row, room, tiles = [first], self.context_length - first.num_tokens, first.num_tiles
        position = len(self.by_length)
        while room:
            # What was passed over for its tiles stays too large: only shorter samples are looked at from there on.
            position = bisect.bisect_right(self.by_length, (room, 1), 0, position) - 1
            while position >= 0 and not self.tiles_fit(position, tiles):
                position -= 1
            if position < 0:
                break
            length, arrival = self.by_length.pop(position)
            sample = self.waiting.pop(-arrival)
            row.append(sample)
            room -= length
            tiles += sample.num_tiles
        return row

    def tiles_fit(self, position: int, tiles: int) -> bool:
        if self.max_tiles is None:
            return True
        more = self.waiting[-self.by_length[position][1]].num_tiles
        return not more or tiles + more <= self.max_tiles

    def contents(self) -> list[Planned]:
        """The samples that wait, the oldest first: added to an empty pool in this order, they make the same rows."""
        return list(self.waiting.values())
