"""A lane that finds nothing usable in a source reads no more of it, wherever it stopped and whoever goes on."""

import json
from collections import Counter

import pytest
from memory_source import MemorySource

from smol_hf.data.conversation import SampleError, TooLongError
from smol_hf.data.stream.stream import Plan, RowStream

LANES, AFTER = 4, 12


class Measured:
    num_tokens, num_tiles = 10, 0

    def __init__(self, name, fault):
        self.name, self.fault = name, fault


class Work:
    """Records are [name, what happens]: some fail when they are read, some when they are decoded."""

    def prepare(self, source, where, record):
        name, fate = record
        if fate == "unreadable":
            raise SampleError(name, "unreadable")
        if fate == "too long":
            raise TooLongError(name, "too long")
        return Measured(name, fate)

    def encode(self, source, prepared):
        if prepared.fault == "damaged":
            raise SampleError(prepared.name, "damaged")
        return prepared.name


def source(name, fates):
    return MemorySource(name, [(f"{name}{i}", (f"{name}{i}", fate)) for i, fate in enumerate(fates)])


def plan(give_up_after=AFTER, **options):
    sources = [
        source("good", ["fine"] * 200),
        source("unreadable", ["unreadable"] * 300),
        source("damaged", ["damaged"] * 300),
        source("long", ["too long"] * 100),
        source("mixed", ["fine", "unreadable", "fine", "damaged"] * 50),
    ]
    options = {"pool_size": 8, "lanes": LANES, **options}
    return Plan(sources, [1.0] * 5, Work(), 40, give_up_after=give_up_after, **options)


def sequence(number, ranks=1, workers=0, states=None):
    streams = [iter(RowStream(plan(), rank, ranks, workers, dict(states or {}))) for rank in range(ranks)]
    rows = [next(streams[index % ranks]) for index in range(number)]
    # In the order of the whole run: each process gives its own in turn.
    return rows, {row.lane: row.state for row in rows}


def contents(rows):
    return [(row.lane, row.samples, [fault.where for fault in row.faults], row.given_up) for row in rows]


def test_a_source_with_nothing_usable_is_given_up_and_the_others_go_on():
    rows, states = sequence(400)
    given_up = Counter(source for row in rows for source in row.given_up)
    assert given_up == {1: LANES, 2: LANES}, "neither what is only too long nor what is partly good"
    skipped = Counter()
    for row in rows:
        skipped.update(row.skipped)
        assert sum(row.skipped.values()) == len(row.faults)
    assert skipped[1] == LANES * AFTER, "not one more"
    assert LANES * AFTER <= skipped[2] <= LANES * (AFTER + 8), "what waited in the pool"
    assert skipped[3] >= 100 and skipped[4] > 50
    late = Counter(sample.rstrip("0123456789") for row in rows[-40:] for sample in row.samples)
    assert set(late) == {"good", "mixed"}
    assert all(json.loads(json.dumps(state))["given_up"] == [1, 2] for state in states.values())


@pytest.mark.parametrize("cut", [4, 12, 40, 100])
@pytest.mark.parametrize("ranks", [1, 2])
def test_it_goes_on_alike_after_any_interruption(cut, ranks):
    reference = contents(sequence(160)[0])
    states = json.loads(json.dumps({str(lane): state for lane, state in sequence(cut)[1].items()}))
    rows, _ = sequence(160 - cut, ranks, states={int(lane): state for lane, state in states.items()})
    assert contents(rows) == reference[cut:]


def test_without_the_policy_nothing_is_given_up_and_the_state_is_as_small_as_ever():
    rows = iter(RowStream(plan(give_up_after=None)))
    row = [next(rows) for _ in range(40)][-1]
    assert not row.given_up and set(row.state) == {"rows", "taken", "pool"}


def test_where_every_source_is_given_up_the_data_ends():
    lonely = Plan([source("bad", ["unreadable"] * 50)], [1.0], Work(), 40, lanes=1, give_up_after=AFTER)
    rows = iter(RowStream(lonely))
    first = next(rows)
    assert first.finished and first.given_up == [0] and len(first.faults) == AFTER
