"""The rows of a source that a lane reads, in order: a function of only (seed, source, epoch, lane).

A run has a fixed number of lanes, for any number of processes. In each epoch, the lanes divide the rows of a source:
each row is read exactly once.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

DRAWS_OF_A_KEY = 256
EPOCHS_KEPT, BLOCKS_KEPT = 4, 8  # of a lane
MOST_WAITING = 1 << 24  # places of rows that are kept for lanes that have not read so far


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


def keep(cache: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add a value to a cache, from which the oldest goes if there are more than `most`."""
    cache[key] = value
    if len(cache) > most:
        del cache[next(iter(cache))]


class Permutations:
    """The permutations of a source, one for each epoch, for the lanes of a process.

    If single rows are cheap to read (`rows_anywhere`), rows are permuted and dealt to the lanes. Otherwise blocks,
    such as the row groups of a parquet file, are dealt, and the rows of a block permuted. So a lane reads each of its
    blocks once. `dealt_before` rows of other sources are dealt first, so that sources start at different lanes.

    A permutation is as long as the source. So it is drawn once for all lanes in `used`, and each takes its share.
    """

    def __init__(
        self,
        name: str,
        block_sizes: Sequence[int] | np.ndarray,
        rows_anywhere: bool,
        seed: int,
        lanes: int,
        dealt_before: int = 0,
        used: Iterable[int] = (),
    ):
        self.key = (seed, name)
        self.sizes = np.asarray(block_sizes, dtype=np.int64)
        self.total = int(self.sizes.sum())
        # Blocks of one row, such as lines of a file, need no starts: there may be millions.
        self.starts = None if bool((self.sizes == 1).all()) else np.concatenate([[0], np.cumsum(self.sizes)])
        self.lanes, self.dealt_before = lanes, dealt_before
        # With fewer blocks than lanes, some lanes would have no rows.
        self.by_row = rows_anywhere or len(block_sizes) < lanes
        self.used = np.asarray(list(used), dtype=np.int64)
        self.newest = -1  # the epoch that was dealt last
        self.waiting: dict[tuple[int, int], np.ndarray] = {}  # (epoch, lane) → its share, until the lane takes it
        self.places_waiting = 0
        self.rows_of_lanes = lru_cache(maxsize=4)(self._rows_of_lanes)

    @property
    def dealt(self) -> int:
        """Return the number of rows or blocks that are dealt in an epoch."""
        return self.total if self.by_row else len(self.sizes)

    def first_of(self, epoch: int, lane: int) -> int:
        """Return the first dealt position of a lane.

        Each epoch continues dealing after the one before. So the total rows (or blocks) of two lanes differ by at most
        one.
        """
        return (lane - self.dealt_before - epoch * self.dealt) % self.lanes

    def permutation(self, epoch: int) -> np.ndarray:
        return generator(*self.key, "epoch", epoch).permutation(self.dealt)

    def share(self, epoch: int, lane: int) -> np.ndarray:
        """Return the rows of a lane in an epoch, or its blocks, in order."""
        if epoch > self.newest:
            self.newest = epoch
            permutation = self.permutation(epoch)
            firsts = (self.used - self.dealt_before - epoch * self.dealt) % self.lanes
            for other, first in zip(self.used[firsts < self.dealt].tolist(), firsts[firsts < self.dealt].tolist()):
                self.waiting[epoch, other] = permutation[first :: self.lanes].copy()  # a view would keep all of it
                self.places_waiting += len(self.waiting[epoch, other])
        share = self.waiting.pop((epoch, lane), None)
        if share is None:
            return self.permutation(epoch)[self.first_of(epoch, lane) :: self.lanes].copy()
        self.places_waiting -= len(share)
        while self.places_waiting > MOST_WAITING:
            self.places_waiting -= len(self.waiting.pop(next(iter(self.waiting))))
        return share

    def _rows_of_lanes(self, epoch: int) -> np.ndarray:
        """Return the rows of each lane in an epoch, if blocks are dealt."""
        lane_of = (np.arange(len(self.sizes)) + self.dealt_before + epoch * self.dealt) % self.lanes
        rows = np.zeros(self.lanes, dtype=np.int64)
        np.add.at(rows, lane_of, self.sizes[self.permutation(epoch)])
        return rows


class SourceOrder:
    """The order of one source for one lane, epoch after epoch."""

    def __init__(self, permutations: Permutations, lane: int):
        self.permutations, self.lane = permutations, lane
        self.begins = [0]
        # Of the last ones. Thousands of lanes have a pair for each source, and `lru_cache` takes 0.1 ms to make.
        self.plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.rows_of_blocks: dict[tuple[int, int], np.ndarray] = {}

    def rows_of_block(self, epoch: int, block: int) -> np.ndarray:
        """Return the permutation of the rows of a block."""
        if (epoch, block) not in self.rows_of_blocks:
            rows = int(self.permutations.sizes[block])
            permutation = generator(*self.permutations.key, "rows", epoch, block).permutation(rows)
            keep(self.rows_of_blocks, (epoch, block), permutation, BLOCKS_KEPT)
        return self.rows_of_blocks[epoch, block]

    def epoch_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (this lane's rows, or its blocks; the start of each block in the lane's own count)."""
        if epoch not in self.plans:
            own = self.permutations.share(epoch, self.lane)
            sizes = [] if self.permutations.by_row else self.permutations.sizes[own]
            keep(self.plans, epoch, (own, np.concatenate([[0], np.cumsum(sizes)])), EPOCHS_KEPT)
        return self.plans[epoch]

    def begin(self, epoch: int) -> int:
        """Return the rows that this lane reads before an epoch."""
        permutations = self.permutations
        for before in range(len(self.begins) - 1, epoch):
            if permutations.by_row:
                length = max(
                    0, -(-(permutations.total - permutations.first_of(before, self.lane)) // permutations.lanes)
                )
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
        if self.permutations.by_row:
            row = int(own[position])
            if (starts_of_blocks := self.permutations.starts) is None:
                return epoch, row, 0
            block = int(np.searchsorted(starts_of_blocks, row, side="right")) - 1
            return epoch, block, row - int(starts_of_blocks[block])
        at = int(np.searchsorted(starts, position, side="right")) - 1
        block = int(own[at])
        return epoch, block, int(self.rows_of_block(epoch, block)[position - int(starts[at])])
