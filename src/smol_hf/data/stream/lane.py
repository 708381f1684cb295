"""A lane: an endless stream of rows, a function of its number. Interruptions do not change it.

    draw a source (mixing) → its next row (order) → measure (prepare) → pool (packing) → decode (encode) → a row

All steps up to the pool are cheap: they tokenise texts and read headers of images. Images are decoded when their
sample leaves the pool. Sequences of a conversation that do not see each other wait in the pool separately, and may go
into different rows. The state is the draw counts and the references in the pool: a few KB of JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from smol_hf.data.conversation import LeftOutError, SampleError
from smol_hf.data.sources.source import Source
from smol_hf.data.stream.mixing import Mixing
from smol_hf.data.stream.packing import PackingPool, Planned

FAULTS_OF_A_ROW = 100  # after which a row is given without samples, so that its reader can decide
LEFT_OUT_OF_A_ROW = 100_000  # the same for filtered samples: filters may keep one in thousands


def gives_up(faults: list[SampleError]) -> bool:
    left_out = sum(isinstance(fault, LeftOutError) for fault in faults)
    return len(faults) - left_out >= FAULTS_OF_A_ROW or left_out >= LEFT_OUT_OF_A_ROW


class Prepared(Protocol):
    """A measured record. It may have `units`: a list of `Prepared` that go into rows independently."""

    num_tokens: int
    num_tiles: int


def units_of(prepared: Any) -> list[Prepared]:
    """Return the parts of a measured record that go into rows: its `units`, or the record."""
    return getattr(prepared, "units", None) or [prepared]


class RowReader(Protocol):
    """A reader of rows by source, block and place, such as `BlockCache`."""

    sources: list[Source]

    def row(self, source: int, block: int, row: int) -> tuple[str, Any]: ...


class Work(Protocol):
    """The work on a record: `prepare` measures it without decoding, `encode` makes a unit ready for the collator.

    Both raise `SampleError` for a record that cannot be used.
    """

    def prepare(self, source: int, where: str, record: Any) -> Prepared: ...

    def encode(self, source: int, prepared: Prepared) -> Any: ...


@dataclass
class Row:
    """The samples of a row, in order, with the faults and counts of drawing it.

    `drawn`: records read from each source, with faulty ones. `skipped`: unused records of each source. `given_up`:
    sources that the lane stops reading. `state`: of the lane after this row. A finished lane gives rows without
    samples.
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
    """A lane of a run.

    Args:
        number: of this lane.
        mixing: its draws, which continue from `state`.
        pool: empty; size 1 gives one sample per row.
        state: of a `Row` of this lane, to continue after it.
        give_up_after: faults after which the lane stops reading a source without any usable sample.
    """

    def __init__(
        self,
        number: int,
        mixing: Mixing,
        cache: RowReader,
        work: Work,
        pool: PackingPool,
        state: dict[str, Any] | None = None,
        give_up_after: int | None = None,
    ):
        self.number, self.mixing, self.cache, self.work, self.pool = number, mixing, cache, work, pool
        self.rows = 0
        self.give_up_after = give_up_after
        self.unusable: Counter[int] = Counter()  # faults of sources without a usable sample
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
        """Return the next row. Its `faults` name the records that could not be used."""
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
        """Add a fault to the row, and give up a source with only faults.

        Its samples in the pool may still be usable, unless this one came from there (`measured`).
        """
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
        """Draw until the pool is full. Returns False if all rounds are drawn."""
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
        """Return the unit of a draw, or all of them, as states of older versions need."""
        units = units_of(self.prepare(source, number))
        return units if unit is None else [units[unit]]

    def prepare(self, source: int, number: int) -> Prepared | None:
        """Return the measured sample of a draw, from memory or read again; None for a row without a record."""
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
