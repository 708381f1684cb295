"""The rows of a source that a lane reads, in order: a function of only (seed, source, epoch, lane).

A run has a fixed number of lanes, for any number of processes. In each epoch, the lanes divide the rows of a source:
each row is read exactly once.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

DRAWS_OF_A_KEY = 256


def generator(*key) -> np.random.Generator:
    """Return a counter-based generator (Philox, Salmon et al. 2011) of numbers that are a function of `key`."""
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

    If single rows are cheap to read (`rows_anywhere`), rows are permuted and dealt to the lanes. Otherwise blocks,
    such as the row groups of a parquet file, are dealt, and the rows of a block permuted. So a lane reads each of its
    blocks once. `dealt_before` rows of other sources are dealt first, so that sources start at different lanes.
    """

    def __init__(
        self,
        name: str,
        block_sizes: Sequence[int] | np.ndarray,
        rows_anywhere: bool,
        seed: int,
        lane: int,
        lanes: int,
        dealt_before: int = 0,
    ):
        self.key = (seed, name)
        self.sizes = np.asarray(block_sizes, dtype=np.int64)
        self.total = int(self.sizes.sum())
        # Blocks of one row, such as lines of a file, need no starts: there may be millions for each lane.
        self.starts = None if bool((self.sizes == 1).all()) else np.concatenate([[0], np.cumsum(self.sizes)])
        self.lane, self.lanes, self.dealt_before = lane, lanes, dealt_before
        # With fewer blocks than lanes, some lanes would have no rows.
        self.by_row = rows_anywhere or len(block_sizes) < lanes
        self.begins = [0]
        self.permutation_of_block = lru_cache(maxsize=8)(self._permutation_of_block)
        self.epoch_plan = lru_cache(maxsize=4)(self._epoch_plan)

    def _permutation_of_block(self, epoch: int, block: int) -> np.ndarray:
        return generator(*self.key, "rows", epoch, block).permutation(int(self.sizes[block]))

    def first_of(self, epoch: int) -> int:
        """Return the first dealt position of this lane.

        Each epoch continues dealing after the one before. So the total rows (or blocks) of two lanes differ by at most
        one.
        """
        dealt = self.dealt_before + epoch * (self.total if self.by_row else len(self.sizes))
        return (self.lane - dealt) % self.lanes

    def _epoch_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (this lane's rows, or its blocks; the start of each block in the lane's own count)."""
        permutation = generator(*self.key, "epoch", epoch).permutation(self.total if self.by_row else len(self.sizes))
        own = permutation[self.first_of(epoch) :: self.lanes].copy()  # a view would keep all of it
        return own, np.concatenate([[0], np.cumsum([] if self.by_row else self.sizes[own])])

    def rows_of_lanes(self, epoch: int) -> list[int]:
        """Return the rows of each lane in an epoch, if blocks are dealt."""
        sizes = self.sizes[generator(*self.key, "epoch", epoch).permutation(len(self.sizes))]
        dealt = self.dealt_before + epoch * len(sizes)
        return [int(sizes[(lane - dealt) % self.lanes :: self.lanes].sum()) for lane in range(self.lanes)]

    def begin(self, epoch: int) -> int:
        """Return the rows that this lane reads before an epoch."""
        for before in range(len(self.begins) - 1, epoch):
            if self.by_row:
                length = max(0, -(-(self.total - self.first_of(before)) // self.lanes))
            else:
                length = int(self.epoch_plan(before)[1][-1])
            self.begins.append(self.begins[-1] + length)
        return self.begins[epoch]

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
