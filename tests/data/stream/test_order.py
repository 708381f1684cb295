"""Lanes divide every epoch of a source between them, in an order that is a function of its key."""

from collections import Counter

import pytest

from smol_hf.data.stream import order as module_of_orders
from smol_hf.data.stream.mixing import Mixing, scaled_weights
from smol_hf.data.stream.order import Draws, Permutations, SourceOrder, generator

SHAPES = {
    "rows anywhere": ([100], True),
    "many blocks": ([7, 1, 20, 13, 5, 9, 30, 2, 11, 4, 6, 8], False),
    "fewer blocks than lanes": ([10, 3], False),
    "fewer rows than lanes": ([2], True),
    "an empty block": ([5, 0, 5, 0, 7], False),
}


def order_of(name, sizes, anywhere, seed, lane, lanes):
    return SourceOrder(Permutations(name, sizes, anywhere, seed, lanes), lane)


def orders_of(name, sizes, anywhere, seed, lanes, before=0):
    """Those of all lanes, which share the permutations."""
    shared = Permutations(name, sizes, anywhere, seed, lanes, before, range(lanes))
    return [SourceOrder(shared, lane) for lane in range(lanes)]


def rows_of(order, epoch):
    return [order.locate(number)[1:] for number in range(order.begin(epoch), order.begin(epoch + 1))]


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_epoch_every_row_is_read_once(shape, lanes):
    sizes, anywhere = SHAPES[shape]
    orders = orders_of("s", sizes, anywhere, 7, lanes)
    everything = {(block, row) for block, size in enumerate(sizes) for row in range(size)}
    for epoch in range(3):
        read = [row for order in orders for row in rows_of(order, epoch)]
        assert Counter(read) == Counter(everything)
        assert all(order.locate(order.begin(epoch))[0] == epoch for order in orders if rows_of(order, epoch))


def test_epochs_seeds_and_sources_differ():
    first = rows_of(order_of("s", [50], True, 7, 0, 1), 0)
    assert first == rows_of(order_of("s", [50], True, 7, 0, 1), 0)
    assert first != rows_of(order_of("s", [50], True, 7, 0, 1), 1)
    assert first != rows_of(order_of("s", [50], True, 8, 0, 1), 0)
    assert first != rows_of(order_of("t", [50], True, 7, 0, 1), 0)


def test_a_lane_reads_each_of_its_blocks_in_one_go():
    order = order_of("s", [10] * 40, False, 0, 1, 4)
    blocks = [order.locate(number)[1] for number in range(order.begin(1))]
    assert len(blocks) == 100 and sum(a != b for a, b in zip(blocks, blocks[1:])) == 9


def test_the_left_over_row_is_not_always_the_same_lanes():
    lanes = {lane for epoch in range(40) for lane in range(4) if rows_of(order_of("s", [1], True, 0, lane, 4), epoch)}
    assert lanes == {0, 1, 2, 3}


@pytest.mark.parametrize("total", [1, 7, 24, 100])
def test_no_lane_is_ever_more_than_a_row_ahead(total):
    orders = orders_of("s", [1] * total, True, 0, 16, 5)
    for epoch in range(1, 20):
        read = [order.begin(epoch) for order in orders]
        assert sum(read) == epoch * total and max(read) - min(read) <= 1


@pytest.mark.parametrize("waiting", [1 << 24, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_lanes_that_share_permutations_have_the_rows_of_lanes_alone(shape, waiting, monkeypatch):
    monkeypatch.setattr(module_of_orders, "MOST_WAITING", waiting)
    sizes, anywhere = SHAPES[shape]
    for lane, order in enumerate(orders_of("s", sizes, anywhere, 7, 4)):
        alone = order_of("s", sizes, anywhere, 7, lane, 4)
        for epoch in (0, 1, 2, 7, 8, 3, 0):
            assert rows_of(order, epoch) == rows_of(alone, epoch)


@pytest.mark.parametrize("sizes, anywhere", [([1] * 3000, True), ([3] * 1000, False)])
def test_a_permutation_is_drawn_once_for_all_lanes(sizes, anywhere, monkeypatch):
    """Otherwise the start of a run takes lanes × rows."""
    drawn, permutation = [], Permutations.permutation
    monkeypatch.setattr(
        Permutations, "permutation", lambda every, epoch: drawn.append(epoch) or permutation(every, epoch)
    )
    lanes = 500
    together = [
        Mixing([order], [1.0], 1, lane, rounds=2)
        for lane, order in enumerate(orders_of("s", sizes, anywhere, 1, lanes))
    ]
    rows = Counter()
    for mixing in together:
        while (draw := mixing.draw()) is not None:
            rows[mixing.orders[0].locate(draw[1])[1:]] += 1
    assert set(rows.values()) == {2} and len(rows) == sum(sizes)
    assert len(drawn) <= 4, "an epoch for the rows of each lane, and once more for their numbers"
    assert not together[0].orders[0].permutations.waiting


def test_draws_are_a_function_of_their_counter():
    draws = Draws("key")
    forwards = [draws[counter] for counter in range(600)]
    assert forwards == [Draws("key")[counter] for counter in range(600)]
    assert draws[3] == forwards[3] and 0 <= min(forwards) < max(forwards) < 1
    assert generator("a").random() != generator("b").random()


def mixings(sizes, weights, lanes=4, rounds=1, **options):
    return [
        Mixing(
            [order_of(f"s{i}", [size], True, 1, lane, lanes) for i, size in enumerate(sizes)],
            weights, 1, lane, rounds=rounds, **options,
        )
        for lane in range(lanes)
    ]  # fmt: skip


def drawn(mixing):
    draws = []
    while (draw := mixing.draw()) is not None:
        draws.append(draw)
    return draws


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_round_gives_every_row_of_every_source_once(rounds):
    sizes = [100, 31, 1]
    counts = Counter()
    for mixing in mixings(sizes, [1.0] * 3, rounds=rounds):
        for source, number in drawn(mixing):
            counts[source, mixing.orders[source].locate(number)[1:]] += 1
    assert counts == {(source, (0, row)): rounds for source, size in enumerate(sizes) for row in range(size)}


@pytest.mark.parametrize("weights", [[2.0, 0.5, 1.0], [0.1, 3.0, 0.25]])
def test_weights_repeat_and_subsample(weights):
    sizes = [400, 800, 200]
    counts = Counter(source for mixing in mixings(sizes, weights, lanes=8) for source, _ in drawn(mixing))
    for source, (size, weight) in enumerate(zip(sizes, weights)):
        assert counts[source] == size * weight


@pytest.mark.parametrize("blocks", [[7] * 3, [50, 10, 10, 33, 1, 9, 20], [1] * 133])
@pytest.mark.parametrize("samples", [1, 5, 40, 133, 300])
def test_a_number_of_samples_is_given_exactly_in_every_round(samples, blocks):
    """Also where whole blocks are dealt to the lanes, of which some then have more rows than others."""
    total, lanes = sum(blocks), 4
    orders = orders_of("s", blocks, False, 1, lanes, 3)
    each = [Mixing([order], [samples / total], 1, lane) for lane, order in enumerate(orders)]
    quotas = [[mixing.quotas_after(number)[0] for mixing in each] for number in range(5)]
    assert [sum(of_lanes) for of_lanes in quotas] == [samples * (number + 1) for number in range(5)]
    for before, after in zip(quotas, quotas[1:]):
        assert all(more >= less for less, more in zip(before, after))
    if samples == total:
        own = [[order.begin(number + 1) for order in orders] for number in range(5)]
        assert quotas == own, "every row once"


def test_the_shares_hold_all_along_the_way():
    sizes, draws = [60_000, 30_000, 9_000, 1_000], []
    (mixing,) = mixings(sizes, [1.0] * 4, lanes=1)
    for _ in range(10_000):
        draws.append(mixing.draw()[0])
    for source, size in enumerate(sizes):
        assert abs(draws.count(source) / 10_000 - size / 100_000) < 0.01


@pytest.mark.parametrize("cut", [0, 1, 57, 200])
def test_a_mixing_goes_on_from_its_counts(cut):
    whole = drawn(mixings([100, 31, 7], [1.0, 2.0, 0.5], lanes=1, rounds=2)[0])
    (mixing,) = mixings([100, 31, 7], [1.0, 2.0, 0.5], lanes=1, rounds=2)
    head = [mixing.draw() for _ in range(cut)]
    (other,) = mixings([100, 31, 7], [1.0, 2.0, 0.5], lanes=1, rounds=2, taken=mixing.taken)
    assert head + drawn(other) == whole


def test_without_rounds_it_never_ends_and_without_rows_it_never_begins():
    (mixing,) = mixings([2], [1.0], lanes=1, rounds=None)
    assert len([mixing.draw() for _ in range(100)]) == 100
    (empty,) = mixings([0], [1.0], lanes=1, rounds=None)
    assert empty.draw() is None


def test_stopping_rules():
    rows, weights = [100, 1000], [1.0, 0.2]
    assert scaled_weights(rows, weights, "quota") == [1.0, 0.2]
    assert scaled_weights(rows, weights, "first_exhausted") == [1.0, 0.2]  # 100 rows of the first are all it has
    assert scaled_weights(rows, weights, "all_exhausted") == [5.0, 1.0]
    assert scaled_weights([0, 10], [9.0, 2.0], "first_exhausted") == [4.5, 1.0]
    for bad in ([0.0], [-1.0], [float("nan")], []):
        with pytest.raises(ValueError, match="must be a positive number"):
            scaled_weights([1], bad, "quota")
    with pytest.raises(ValueError, match="choose one of quota"):
        scaled_weights([1], [1.0], "never")
