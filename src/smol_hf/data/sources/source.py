"""Sources give rows in blocks, in any order: files, joined files, the first rows, rows in memory."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

BLOCKS_KEPT = 6
BYTES_KEPT = 512 * 1024 * 1024  # of blocks with several rows, by process
SMALL = 64 * 1024 * 1024  # bytes of a source whose rows are shuffled all over, since its blocks stay in memory


class Source(ABC):
    """A dataset that can be read in any order.

    Attributes:
        name: part of the name of every sample and counter.
        block_sizes: rows of each block. A block is read at once.
        rows_anywhere: true if single rows are cheap to read. Then rows are shuffled across the source. Otherwise
            blocks are shuffled, and the rows in each block.
        prefix: start of its records' names, if several sources have files of one name.
        fingerprint: changes with the content. A run does not resume with other data.
        remote: true for records behind a network, which are not all read before a run.
        revision: the commit of a Hub dataset.
        files: the files of its rows, if any.
    """

    name: str
    prefix: str = ""
    block_sizes: Sequence[int] | np.ndarray
    rows_anywhere: bool
    fingerprint: str
    remote: bool = False
    revision: str | None = None
    files: Sequence[str] = ()

    @abstractmethod
    def read_block(self, block: int) -> list[tuple[str, Any]]:
        """Return (where, record) of each row. `where` is its name in messages.

        The record is a `SampleError` for a row that cannot be parsed, and None for no row (a blank line).
        """

    def all_rows(self) -> Iterator[tuple[str, Any]]:
        """Yield (where, record) of all rows in order, see `read_block`."""
        return self.rows_between(0, int(np.sum(self.block_sizes)))  # a part of a source has fewer records

    def rows_between(self, first: int, last: int) -> Iterator[tuple[str, Any]]:
        """Yield (where, record) of the rows from `first` up to `last`. Only their blocks are read."""
        sizes = np.asarray(self.block_sizes, dtype=np.int64)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        for block in range(int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(starts, last))):
            start = int(starts[block])
            yield from self.read_part(block, max(first - start, 0), min(last - start, int(sizes[block])))

    def read_part(self, block: int, first: int, last: int) -> Iterable[tuple[str, Any]]:
        """Return the rows of a block from `first` up to `last`, see `read_block`."""
        return self.read_block(block)[first:last]

    def bytes_of(self, block: int) -> int:
        """Return the approximate bytes of a block; 0 if unknown."""
        return 0

    def __len__(self) -> int:
        return int(np.sum(self.block_sizes))


class BlockCache:
    """The blocks of all sources that a process read last.

    A source with `rows_anywhere` and blocks of several rows is small: all its blocks are kept. Other blocks of several
    rows are kept up to `bytes_kept`, because the lanes of a process read them in turn.
    """

    def __init__(self, sources: list[Source], kept: int = BLOCKS_KEPT, bytes_kept: int = BYTES_KEPT):
        self.sources, self.bytes_kept = sources, bytes_kept
        self.kept = max(kept, len(sources))
        self.blocks: OrderedDict[tuple[int, int], list] = OrderedDict()
        self.small: dict[tuple[int, int], list] = {}
        self.bytes = 0

    def row(self, source: int, block: int, row: int) -> tuple[str, Any]:
        key = (source, block)
        if key in self.small:
            return self.small[key][row]
        if key in self.blocks:
            self.blocks.move_to_end(key)
            return self.blocks[key][row]
        rows = self.sources[source].read_block(block)
        if len(rows) == 1:
            return rows[row]  # not read again soon
        if self.sources[source].rows_anywhere:
            self.small[key] = rows
            return rows[row]
        self.blocks[key] = rows
        self.bytes += self.bytes_of(key)
        while len(self.blocks) > self.kept and (self.bytes > self.bytes_kept or not self.bytes_of(key)):
            self.bytes -= self.bytes_of(self.blocks.popitem(last=False)[0])
        return rows[row]

    def bytes_of(self, key: tuple[int, int]) -> int:
        return self.sources[key[0]].bytes_of(key[1])


class Head(Source):
    """The first `rows` rows of `source`, with their names and places; all if it has fewer."""

    def __init__(self, source: Source, rows: int):
        self.source, self.name, self.prefix = source, source.name, source.prefix
        self.rows_anywhere = source.rows_anywhere
        self.fingerprint = f"{source.fingerprint}:{rows}"
        sizes = np.asarray(source.block_sizes, dtype=np.int64)
        left = rows - (np.cumsum(sizes) - sizes)  # rows still wanted at the start of each block
        self.block_sizes = [int(size) for size in np.minimum(sizes, left) if size > 0]

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return self.source.read_block(block)[: self.block_sizes[block]]


class JoinedSource(Source):
    """The rows of all parts, in their order. The parts must use different row names."""

    def __init__(self, name: str, parts: list[Source]):
        self.name, self.parts = name, parts
        self.files = [file for part in parts for file in part.files]
        self.first_blocks = np.cumsum([0, *(len(part.block_sizes) for part in parts)])
        self.block_sizes = np.concatenate([np.asarray(part.block_sizes, dtype=np.int64) for part in parts])
        self.rows_anywhere = all(part.rows_anywhere for part in parts) and (
            bool(np.all(self.block_sizes == 1)) or sum(map(self.bytes_of, range(len(self.block_sizes)))) <= SMALL
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

    def rows_between(self, first: int, last: int) -> Iterator[tuple[str, Any]]:
        for part in self.parts:
            yield from part.rows_between(max(first, 0), max(last, 0))
            first, last = first - len(part), last - len(part)


class MadeSource(Source):
    """Rows that are a function of their number, such as drawn pages: `make(number)` gives (where, record)."""

    rows_anywhere = True

    def __init__(self, name: str, rows: int, make: Callable[[int], tuple[str, Any]], *, fingerprint: str):
        self.name, self.make, self.fingerprint = name, make, fingerprint
        self.block_sizes = np.ones(rows, dtype=np.int64)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        return [self.make(block)]
