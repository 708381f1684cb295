"""Rows of complete samples: the oldest sample of a pool opens a row, then the largest fitting ones fill it.

Rows are balanced by compute: a tile costs as much as many tokens, and a step takes as long as its slowest process. So
samples with many and with few tiles alternate, such that each row approaches the pool's ratio of tiles to tokens.

Packing is online: it needs only a pool of some hundred planned samples, so it works on streams with a small state. The
oldest sample always opens the next row, so none waits for ever. No sample is cut or left out. Chunked
best-fit-decreasing (TRL's `bfd`) fills less from the same pool, because it closes all rows at the end of each chunk.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planned:
    """A measured sample. `reference`: any value by which the caller finds it. `num_tokens`: with image tokens."""

    reference: Any
    num_tokens: int
    num_tiles: int = 0


class PackingPool:
    """Planned samples that wait for a row.

    Args:
        context_length: the most tokens of a row.
        max_tiles: the most tiles of a row, to bound the image encoder's work and memory; rows of similar cost avoid
            waiting processes. None: no bound. A sample with more opens a row, which gets only samples without tiles.
        size: samples in the pool. A larger pool fills rows better (128: 99 % and more on mixed lengths).
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
        self.by_length: list[tuple[int, int]] = []  # (tokens, -arrival): the oldest of equal lengths is last
        self.tokens = self.tiles = 0  # of the waiting samples

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def has_room(self) -> bool:
        return len(self.waiting) < self.size

    def add(self, sample: Planned) -> None:
        """Add a sample. Raises ValueError for one that no row can hold."""
        if not 0 < sample.num_tokens <= self.context_length:
            raise ValueError(f"{sample.num_tokens} tokens do not fit a row of {self.context_length}")
        self.waiting[self.arrived] = sample
        bisect.insort(self.by_length, (sample.num_tokens, -self.arrived))
        self.arrived += 1
        self.tokens += sample.num_tokens
        self.tiles += sample.num_tiles

    def next_row(self) -> list[Planned]:
        """Remove the samples of the next row from the pool and return them; [] for an empty pool."""
        if not self.waiting:
            return []
        per_token = self.tiles / self.tokens
        oldest = next(iter(self.waiting))
        first = self.take(oldest)
        row, used, tiles = [first], first.num_tokens, first.num_tiles
        while self.waiting and (position := self.next_position(used, tiles, per_token)) is not None:
            sample = self.take(-self.by_length[position][1])
            row.append(sample)
            used += sample.num_tokens
            tiles += sample.num_tiles
        return row

    def take(self, arrival: int) -> Planned:
        """Remove the sample that arrived at this place of the order."""
        sample = self.waiting.pop(arrival)
        del self.by_length[bisect.bisect_left(self.by_length, (sample.num_tokens, -arrival))]
        self.tokens -= sample.num_tokens
        self.tiles -= sample.num_tiles
        return sample

    def discard(self, beginning: tuple) -> None:
        """Remove the samples whose reference is a tuple with this beginning."""
        found = [at for at, sample in self.waiting.items() if sample.reference[: len(beginning)] == beginning]
        for arrival in found:
            self.take(arrival)

    def next_position(self, used: int, tiles: int, per_token: float) -> int | None:
        """Return the position in `by_length` of the next sample of a row, or None if none fits.

        It is the largest fitting sample that brings the row nearer to the pool's tiles per token (one with many tiles
        if the row has few, and one with few if it has many), or else the largest fitting sample.
        """
        wants_many, second = tiles < per_token * used, None
        for position in range(bisect.bisect_right(self.by_length, (self.context_length - used, 1)) - 1, -1, -1):
            sample = self.waiting[-self.by_length[position][1]]
            if self.max_tiles is not None and sample.num_tiles and tiles + sample.num_tiles > self.max_tiles:
                continue
            if (sample.num_tiles > per_token * sample.num_tokens) == wants_many:
                return position
            second = position if second is None else second
        return second

    def contents(self) -> list[Planned]:
        """Return the waiting samples, oldest first. Added to an empty pool in this order, they make the same rows."""
        return list(self.waiting.values())
