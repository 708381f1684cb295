"""A lane: an endless stream of rows that is a function of its number, whoever reads it and however often it stopped.

    draw a source (mixing) → its next row (order) → measure (prepare) → pool (packing) → decode (encode) → a row

Everything up to the pool is cheap: texts are tokenised and images' headers read. Images are decoded when their sample
leaves the pool. The sequences of a conversation that do not see each other wait in the pool one by one, and may go
into different rows. The state is what was drawn and what waits in the pool, as references: a few KB of JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from smol_hf.data.conversation import LeftOutError, SampleError
from smol_hf.data.sources.source import BlockCache
from smol_hf.data.stream.mixing import Mixing
from smol_hf.data.stream.packing import PackingPool, Planned

FAULTS_OF_A_ROW = 100  # then a row is given without samples, so that whoever reads it can decide


LEFT_OUT_OF_A_ROW = 100_000  # filters may want one sample of thousands, but not none for ever


def gives_up(faults: list[SampleError]) -> bool:
    left_out = sum(isinstance(fault, LeftOutError) for fault in faults)
    return len(faults) - left_out >= FAULTS_OF_A_ROW or left_out >= LEFT_OUT_OF_A_ROW


class Prepared(Protocol):
    """A measured record. It may have `units`: a list of `Prepared`, each of which goes into a row independently."""

    num_tokens: int
    num_tiles: int


def units_of(prepared: Prepared) -> list[Prepared]:
    """The parts of a measured record that go into rows: its `units`, or all of it."""
    return getattr(prepared, "units", None) or [prepared]


class Work(Protocol):
    """The work on a record: `prepare` measures it without decoding anything, `encode` makes a unit of it ready to be
    collated. Both raise `SampleError` for what cannot be used."""

    def prepare(self, source: int, where: str, record: Any) -> Prepared: ...

    def encode(self, source: int, prepared: Prepared) -> Any: ...


@dataclass
class Row:
    """Samples that share a row, in order, and what happened on the way to it.

    `drawn` counts the records read from each source, those with faults included, `skipped` those of its records that
    were not used. `given_up` are sources that the lane will not read any more. `state` is the lane's after this row.
    A finished lane gives rows without samples.
    """

    lane: int
    samples: list[Any] = field(default_factory=list)
    faults: list[SampleError] = field(default_factory=list)
    drawn: dict[int, int] = field(default_factory=dict)
    skipped: Counter[int] = field(default_factory=Counter)
    given_up: list[int] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


class Lane:
    """Args:
    number: of this lane.
    mixing: its draws, which go on from `state`.
    pool: empty; of size 1 it gives one sample per row.
    state: from a `Row` of this lane, to go on after it.
    give_up_after: faults of a source of which the lane never had a usable sample, after which it reads no more of it.
    """

    def __init__(
        self,
        number: int,
        mixing: Mixing,
        cache: BlockCache,
        work: Work,
        pool: PackingPool,
        state: dict[str, Any] | None = None,
        give_up_after: int | None = None,
    ):
        self.number, self.mixing, self.cache, self.work, self.pool = number, mixing, cache, work, pool
        self.rows = 0
        self.give_up_after = give_up_after
        self.unusable: Counter[int] = Counter()  # faults of sources that never gave a usable sample
        self.usable: set[int] = set()
        self.prepared: dict[tuple[int, int], Prepared] = {}
        if state is not None:
            self.mixing.taken = list(state["taken"])
            self.rows = state["rows"]
            self.usable = set(state.get("usable", ()))
            self.unusable = Counter({int(source): count for source, count in state.get("unusable", {}).items()})
            self.mixing.given_up = set(state.get("given_up", ()))
            for *reference, tokens, tiles in state["pool"]:
                self.pool.add(Planned(tuple(reference), tokens, tiles))

    def state(self) -> dict[str, Any]:
        waiting = [[*sample.reference, sample.num_tokens, sample.num_tiles] for sample in self.pool.contents()]
        state = {"rows": self.rows, "taken": list(self.mixing.taken), "pool": waiting}
        if self.give_up_after is not None:
            unusable = {str(source): count for source, count in self.unusable.items()}
            given_up = sorted(self.mixing.given_up)
            state |= {"usable": sorted(self.usable), "unusable": unusable, "given_up": given_up}
        return state

    def next_row(self) -> Row:
        """The next row. Whatever could not be used on the way is named in its `faults`."""
        row, drawn, failed = Row(self.number), Counter(), set()
        while not row.samples and not gives_up(row.faults):
            row.finished = not self.fill_pool(row, drawn) and not len(self.pool)
            if row.finished:
                break
            for source, drawn_before, *number in [sample.reference for sample in self.pool.next_row()]:
                record = (source, drawn_before)
                if record in failed:
                    continue
                try:
                    for unit in self.units(*record, *number):
                        row.samples.append(self.work.encode(source, unit))
                    self.usable.add(source)
                except SampleError as fault:
                    failed.add(record)
                    self.pool.discard(record)
                    self.note(row, source, fault, measured=True)
            waiting = {sample.reference[:2] for sample in self.pool.contents()}
            self.prepared = {record: each for record, each in self.prepared.items() if record in waiting}
        self.rows += 1
        row.drawn, row.state = dict(drawn), self.state()
        return row

    def note(self, row: Row, source: int, fault: SampleError, measured: bool = False) -> None:
        """Name a fault in the row, and give up a source of which everything so far was one. What waits in the pool
        may turn out usable, unless it is such a sample that did not (`measured`)."""
        fault.source = self.cache.sources[source].name
        row.faults.append(fault)
        row.skipped[source] += 1
        if self.give_up_after is None or source in self.usable or isinstance(fault, LeftOutError):
            return
        self.unusable[source] += 1
        if self.unusable[source] < self.give_up_after or source in self.mixing.given_up:
            return
        if measured or not any(sample.reference[0] == source for sample in self.pool.contents()):
            self.mixing.given_up.add(source)
            row.given_up.append(source)

    def fill_pool(self, row: Row, drawn: Counter) -> bool:
        """Draw until the pool is full. False when there is nothing more to draw."""
        while self.pool.has_room and not gives_up(row.faults):
            reference = self.mixing.draw()
            if reference is None:
                return False
            try:
                prepared = self.prepare(*reference)
            except SampleError as fault:
                self.note(row, reference[0], fault)
                drawn[reference[0]] += 1
                continue
            if prepared is not None:
                drawn[reference[0]] += 1
                units = units_of(prepared)
                for number, unit in enumerate(units):
                    place = (*reference, number) if len(units) > 1 else reference
                    self.pool.add(Planned(place, unit.num_tokens, unit.num_tiles))
        return True

    def units(self, source: int, number: int, unit: int | None = None) -> list[Prepared]:
        """The unit of a draw, or all of them. (Older states know only whole records.)"""
        units = units_of(self.prepare(source, number))
        return units if unit is None else [units[unit]]

    def prepare(self, source: int, number: int) -> Prepared | None:
        """The measured sample of a draw, from memory or read again; None for a row without a record."""
        reference = (source, number)
        if reference not in self.prepared:
            _, block, place = self.mixing.orders[source].locate(number)
            where, record = self.cache.row(source, block, place)
            if record is None:
                return None
            if isinstance(record, SampleError):
                raise record
            self.prepared[reference] = self.work.prepare(source, where, record)
        return self.prepared[reference]
