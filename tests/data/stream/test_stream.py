"""The same rows whoever computes them, and after any interruption; nothing lost, nothing repeated."""

import json
from collections import Counter
from dataclasses import dataclass

import pytest
from memory_source import MemorySource

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.source import Source
from smol_hf.data.stream.order import generator
from smol_hf.data.stream.stream import Plan, RowStream, check_shares

LANES = 8


@dataclass
class Measured:
    name: str
    num_tokens: int
    num_tiles: int = 0


class Words:
    """Records are [name, tokens]; some cannot be used, some turn out so only when they are decoded."""

    def prepare(self, source, where, record):
        name, tokens = record
        if tokens == 0:
            raise SampleError(name, "nothing in it")
        return Measured(name, abs(tokens), abs(tokens) // 70)

    def encode(self, source, prepared):
        if prepared.num_tokens == 13:
            raise SampleError(prepared.name, "damaged")
        return prepared.name


class Blocks(Source):
    """As a parquet file: rows in blocks."""

    rows_anywhere = False

    def __init__(self, name, rows, size):
        self.name, self.rows, self.size, self.fingerprint = name, rows, size, name
        self.block_sizes = [min(size, len(rows) - start) for start in range(0, len(rows), size)]

    def read_block(self, block):
        return self.rows[block * self.size : (block + 1) * self.size]


def records(name, number):
    lengths = generator("lengths", name).integers(0, 400, number)
    return [(f"{name}{i}", None if i % 50 == 49 else (f"{name}{i}", int(lengths[i]))) for i in range(number)]


DATA = {"a": records("a", 600), "b": records("b", 333), "c": records("c", 5)}


def plan(**options):
    sources = [MemorySource("a", DATA["a"]), Blocks("b", DATA["b"], 16), MemorySource("c", DATA["c"])]
    return Plan(sources, [1.0, 1.0, 1.0], Words(), 1000, seed=3, lanes=LANES, **{"pool_size": 32, **options})


def read(stream, number):
    rows = iter(stream)
    return [next(rows) for _ in range(number)]


def sequence(number, ranks=1, workers=0, states=None, **options):
    """The first rows of the run, put together from what its processes get; and all states after them."""
    streams = [RowStream(plan(**options), rank, ranks, workers, dict(states or {})) for rank in range(ranks)]
    parts = [read(stream, number // ranks) for stream in streams]
    rows = [parts[q % ranks][q // ranks] for q in range(number)]
    merged = {int(lane): state for stream in streams for lane, state in stream.state_dict().items()}
    return rows, merged


def contents(rows):
    return [(row.lane, row.samples, [fault.where for fault in row.faults]) for row in rows]


@pytest.fixture(scope="module")
def reference():
    return contents(sequence(80)[0])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_and_workers_do_not_change_the_sequence(ranks, workers, reference):
    assert contents(sequence(80, ranks, workers)[0]) == reference
    assert [lane for lane, _, _ in reference] == [q % LANES for q in range(80)]


@pytest.mark.parametrize("cut", [4, 12, 36])
@pytest.mark.parametrize(("before", "after"), [((1, 0), (4, 2)), ((4, 2), (1, 0)), ((2, 4), (4, 1)), ((4, 1), (2, 2))])
def test_it_goes_on_with_other_processes_and_workers(before, after, cut, reference):
    _, states = sequence(cut, *before)
    states = {int(lane): state for lane, state in json.loads(json.dumps(states)).items()}
    assert contents(sequence(80 - cut, *after, states=states)[0]) == reference[cut:]


def test_it_goes_on_a_second_time(reference):
    """What a process was given about the lanes of others must not come back as news."""
    _, states = sequence(16, 2, 0)
    _, states = sequence(16, 4, 0, states=states)
    assert contents(sequence(48, 2, 1, states=states)[0]) == reference[32:]


def until_finished(**options):
    rows, finished = [], set()
    for row in RowStream(plan(**options)):
        rows.append(row)
        finished |= {row.lane} if row.finished else set()
        if len(finished) == LANES:
            return rows
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("pool_size", [1, 32])
def test_every_record_is_trained_or_named_once_a_round(pool_size, rounds):
    rows = until_finished(rounds=rounds, pool_size=pool_size)
    used = Counter(sample for row in rows for sample in row.samples)
    named = Counter(fault.where for row in rows for fault in row.faults)
    data = [record for rows_of in DATA.values() for _, record in rows_of if record is not None]
    assert used == {name: rounds for name, tokens in data if tokens not in (0, 13)}
    assert named == {name: rounds for name, tokens in data if tokens in (0, 13)}
    assert sum(named.values()) > 0
    drawn = sum((Counter(row.drawn) for row in rows), Counter())
    assert [drawn[i] for i in range(3)] == [
        rounds * sum(record is not None for _, record in rows_of) for rows_of in DATA.values()
    ]


def test_a_finished_lane_gives_empty_rows():
    last = until_finished(rounds=1)[-1]
    assert last.finished and last.samples == []


def test_nothing_but_faults_does_not_hang():
    broken = Plan([MemorySource("x", [("x", ("x", 0))])], [1.0], Words(), 10, lanes=1)
    row = read(RowStream(broken), 1)[0]
    assert not row.finished and not row.samples and len(row.faults) == 100


def test_the_state_is_small():
    names = [
        MemorySource(f"source{i}", [(f"{i}.{row}", (f"{i}.{row}", 90)) for row in range(2000)]) for i in range(30)
    ]
    large = Plan(names, [1.0] * 30, Words(), 4096, lanes=1, pool_size=128)
    state = read(RowStream(large), 400)[-1].state
    assert len(json.dumps(state, separators=(",", ":"))) <= 4096


SHARES = [
    (8, 3, 0, False, "data_lanes 8 is not a multiple of 3 processes × 1 worker = 3: use 9 or 12"),
    (64, 16, 3, False, "data_lanes 64 is not a multiple of 16 processes × 3 workers = 48: use 96 or 144"),
    (16, 3, 1, True, "a run keeps its lanes, so choose processes × workers among 1, 2, 4, 8, 16"),
    (65_535, 256, 128, False, "use 65536"),
    (16, 256, 257, False, "at most 65,536 processes × workers can read the data"),
]


@pytest.mark.parametrize(("lanes", "ranks", "workers", "fixed", "message"), SHARES)
def test_lanes_must_be_shared_evenly(lanes, ranks, workers, fixed, message):
    with pytest.raises(ValueError) as raised:
        check_shares(lanes, ranks, workers, fixed)
    assert str(raised.value).endswith(message)
    with pytest.raises(ValueError, match="is not a multiple of"):
        RowStream(plan(), 0, 3, 0)


def test_each_picture_is_decoded_once_and_only_when_it_is_used():
    seen = Counter()

    class Counting(Words):
        def encode(self, source, prepared):
            seen[prepared.name] += 1
            return super().encode(source, prepared)

    counting = plan(rounds=1)
    counting.work = Counting()
    rows = read(RowStream(counting), 40)
    used = [sample for row in rows for sample in row.samples]
    assert set(used) <= set(seen) and set(seen.values()) == {1}
    assert set(seen) - set(used) == {fault.where for row in rows for fault in row.faults if fault.problem == "damaged"}
