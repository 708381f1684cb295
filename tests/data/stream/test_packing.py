"""Rows of whole samples: nothing lost, nothing cut, nothing waits for ever, and the rows are full."""

import json
from pathlib import Path

import numpy as np
import pytest
from processes import run_script

from smol_hf.data.stream.packing import PackingPool, Planned

ROOT = Path(__file__).resolve().parents[3]


def rows_of(samples, context_length, **options):
    pool, waiting, rows = PackingPool(context_length, **options), iter(samples), []
    while True:
        while pool.has_room and (sample := next(waiting, None)) is not None:
            pool.add(sample)
        row = pool.next_row()
        if not row:
            return rows
        rows.append(row)


def stream(number, context_length, seed=0):
    random = np.random.default_rng(seed)
    tiles = random.choice([0, 1, 5, 13, 17], size=number)
    tokens = np.minimum(tiles * 67 + np.exp(random.normal(5, 1.1, number)).astype(int) + 1, context_length)
    return [Planned(i, int(tokens[i]), int(tiles[i])) for i in range(number)]


@pytest.mark.parametrize("size", [1, 2, 16, 128])
@pytest.mark.parametrize("max_tiles", [None, 40, 17, 0])
def test_every_sample_is_in_exactly_one_row_and_no_row_is_too_long(size, max_tiles):
    samples = stream(2000, 4096)
    rows = rows_of(samples, 4096, size=size, max_tiles=max_tiles)
    assert sorted(sample.reference for row in rows for sample in row) == list(range(2000))
    assert max(sum(sample.num_tokens for sample in row) for row in rows) <= 4096
    if max_tiles is not None:
        for row in rows:
            assert sum(sample.num_tiles for sample in row) <= max(max_tiles, row[0].num_tiles)


def test_the_oldest_opens_the_row_and_the_largest_that_fits_follows():
    pool = PackingPool(100, size=10)
    for name, tokens in (("a", 30), ("b", 80), ("c", 70), ("d", 70), ("e", 10), ("f", 71)):
        pool.add(Planned(name, tokens))
    assert [sample.reference for sample in pool.next_row()] == ["a", "c"]
    assert [sample.reference for sample in pool.next_row()] == ["b", "e"]
    assert [sample.reference for sample in pool.next_row()] == ["d"]
    assert [sample.reference for sample in pool.next_row()] == ["f"]
    assert pool.next_row() == []


def test_what_has_too_many_tiles_is_passed_over_for_what_fits():
    pool = PackingPool(100, max_tiles=5)
    for name, tokens, tiles in (("a", 20, 4), ("b", 70, 3), ("c", 60, 1), ("d", 15, 2), ("e", 12, 0)):
        pool.add(Planned(name, tokens, tiles))
    assert [sample.reference for sample in pool.next_row()] == ["a", "c", "e"]
    assert [sample.reference for sample in pool.next_row()] == ["b", "d"]


def test_a_sample_that_never_fits_beside_others_does_not_wait_for_ever():
    samples = [Planned("long", 1000), *(Planned(i, 10) for i in range(2000))]
    rows = rows_of([*samples[1:5], samples[0], *samples[5:]], 1000, size=8)
    assert next(number for number, row in enumerate(rows) if row[0].reference == "long") < 8


def test_a_pool_is_restored_from_its_contents():
    samples = stream(600, 2048)
    one = PackingPool(2048, max_tiles=30, size=64)
    for sample in samples[:64]:
        one.add(sample)
    for sample in samples[64:200]:
        one.next_row()
        if one.has_room:
            one.add(sample)
    other = PackingPool(2048, max_tiles=30, size=64)
    for sample in one.contents():
        other.add(sample)
    while len(one):
        assert one.next_row() == other.next_row()
    assert not len(other)


@pytest.mark.parametrize("tokens", [0, -1, 101])
def test_what_no_row_can_hold_is_refused(tokens):
    with pytest.raises(ValueError, match="do not fit"):
        PackingPool(100).add(Planned("x", tokens))


def test_the_benchmark_fills_its_rows():
    printed = run_script(ROOT / "benchmarks" / "packing.py", "--samples", "4000")
    figures = json.loads(printed.splitlines()[-1])
    assert figures["fill"] >= 0.99 and figures["fill_with_tile_budget"] >= 0.99 and figures["truncated"] == 0
    assert figures["fill"] > figures["fill_trl_bfd_same_pool"]
    slowest = figures["slowest_of_4_over_mean"]
    assert slowest["by_tokens_and_tiles"] < slowest["by_tokens_alone"] - 0.05, "balanced by tiles as well as tokens"
    assert figures["microseconds_per_sample"] > 0


def test_samples_with_many_tiles_and_with_few_take_turns():
    pool = PackingPool(100)
    for name, tokens, tiles in (("first", 20, 4), ("many", 40, 8), ("none", 30, 0), ("some", 35, 7), ("short", 10, 0)):
        pool.add(Planned(name, tokens, tiles))
    assert [sample.reference for sample in pool.next_row()] == ["first", "none", "many", "short"]
    assert [sample.reference for sample in pool.next_row()] == ["some"]
