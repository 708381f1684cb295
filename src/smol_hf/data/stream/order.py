"""Which rows of a source a lane reads, and in which order: a function of (seed, source, epoch, lane) alone.

A run has a fixed number of lanes, whatever the number of processes that share them. In each epoch the lanes divide
every row of a source between them: nothing is read twice, nothing is left out.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

DRAWS_OF_A_KEY = 256


def generator(*key) -> np.random.Generator:
    """A counter-based generator (Philox, Salmon et al. 2011) of numbers that are a function of `key`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Draws:
    """Uniform numbers in [0, 1), one for each counter value under a key."""

    def __init__(self, *key):
        self.key = key
        self.page = -1
        self.numbers = np.empty(0)

    def __getitem__(self, counter: int) -> float:
        page, place = divmod(counter, DRAWS_OF_A_KEY)
        if page != self.page:
            self.page, self.numbers = page, generator(*self.key, page).random(DRAWS_OF_A_KEY)
        return float(self.numbers[place])


class SourceOrder:
    """The order of one source for one lane, epoch after epoch.

    Where single rows are cheap to read (`rows_anywhere`), rows are permuted and dealt out to the lanes. Where rows
    come in large blocks, such as the row groups of a parquet file, blocks are dealt out, and the rows of a block
    permuted; so a lane reads each of its blocks once. `dealt_before` rows of other sources were dealt to the lanes
    first, so that not all sources give their first row to the same lane.
    """

    def __init__(
        self,
        name: str,
        block_sizes: Sequence[int],
        rows_anywhere: bool,
        seed: int,
        lane: int,
        lanes: int,
        dealt_before: int = 0,
    ):
        self.key = (seed, name)
        self.sizes = np.asarray(block_sizes, dtype=np.int64)
        self.total = int(self.sizes.sum())
        # A line of a file is a block of its own: millions of them, for each lane, are not counted up again.
        self.starts = None if bool((self.sizes == 1).all()) else np.concatenate([[0], np.cumsum(self.sizes)])
        self.lane, self.lanes, self.dealt_before = lane, lanes, dealt_before
        # With fewer blocks than lanes some lanes would have nothing to read.
        self.by_row = rows_anywhere or len(block_sizes) < lanes
        self.begins = [0]
        self.permutation_of_block = lru_cache(maxsize=8)(self._permutation_of_block)
        self.epoch_plan = lru_cache(maxsize=4)(self._epoch_plan)

    def _permutation_of_block(self, epoch: int, block: int) -> np.ndarray:
        return generator(*self.key, "rows", epoch, block).permutation(int(self.sizes[block]))

    def first_of(self, epoch: int) -> int:
        """Which share of the deal is this lane's. Each epoch goes on dealing where the one before it stopped, so what
        two lanes have read in all never differs by more than one row (or block)."""
        dealt = self.dealt_before + epoch * (self.total if self.by_row else len(self.sizes))
        return (self.lane - dealt) % self.lanes

    def _epoch_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(this lane's rows, or its blocks; where each block begins in the lane's own count)."""
        permutation = generator(*self.key, "epoch", epoch).permutation(self.total if self.by_row else len(self.sizes))
        own = permutation[self.first_of(epoch) :: self.lanes].copy()  # a view would keep all of it
        return own, np.concatenate([[0], np.cumsum([] if self.by_row else self.sizes[own])])

    def _length(self, epoch: int) -> int:
        if self.by_row:
            return max(0, -(-(self.total - self.first_of(epoch)) // self.lanes))
        return int(self.epoch_plan(epoch)[1][-1])

    def rows_of_lanes(self, epoch: int) -> list[int]:
        """Rows of each lane in an epoch, where blocks are dealt out."""
        sizes = self.sizes[generator(*self.key, "epoch", epoch).permutation(len(self.sizes))]
        dealt = self.dealt_before + epoch * len(sizes)
        return [int(sizes[(lane - dealt) % self.lanes :: self.lanes].sum()) for lane in range(self.lanes)]

    def begin(self, epoch: int) -> int:
        """Rows that this lane reads before an epoch."""
        while len(self.begins) <= epoch:
            self.begins.append(self.begins[-1] + self._length(len(self.begins) - 1))
        return self.begins[epoch]

    def length(self, epoch: int) -> int:
        """Rows that this lane reads in an epoch."""
        return self.begin(epoch + 1) - self.begin(epoch)

    def locate(self, number: int) -> tuple[int, int, int]:
        """(epoch, block, row in it) of the lane's n-th row, counted over all epochs from 0."""
        while self.begins[-1] <= number:
            self.begin(len(self.begins))
        epoch = bisect.bisect_right(self.begins, number) - 1
        position = number - self.begins[epoch]
        own, starts = self.epoch_plan(epoch)
        if self.by_row:
            row = int(own[position])
            if self.starts is None:
                return epoch, row, 0
            block = int(np.searchsorted(self.starts, row, side="right")) - 1
            return epoch, block, row - int(self.starts[block])
        at = int(np.searchsorted(starts, position, side="right")) - 1
        block = int(own[at])
        return epoch, block, int(self.permutation_of_block(epoch, block)[position - int(starts[at])])
