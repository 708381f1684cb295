"""The draw of a lane's next source, such that each source gives exactly its share.

A round of the mixture gives each source's quota: all its rows with weight 1, half of them with 0.5, each twice with 2.
The quotas of all lanes sum to this number, rounded to whole rows. Within a round, the probability of a source is
proportional to the rest of its quota, like cards of a shuffled deck. So shares are approximately right at any time,
and exact at the end of a round.
"""

from __future__ import annotations

import math

from smol_hf.data.stream.order import Draws, SourceOrder

STOPPING = ("quota", "first_exhausted", "all_exhausted")


def scaled_weights(rows: list[int], weights: list[float], stopping: str) -> list[float]:
    """Scale weights for a stopping rule. Relative shares stay, but the length of a round changes.

    Args:
        stopping: "quota": a round gives weight × rows of each source. "first_exhausted": it ends when one source has
            given all its rows, so none repeats. "all_exhausted": it ends when all have, so others repeat.

    Raises:
        ValueError: for another rule, or weights that are not positive.
    """
    if stopping not in STOPPING:
        raise ValueError(f"stopping is {stopping!r}: choose one of {', '.join(STOPPING)}")
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights are {weights}: each must be a positive number")
    given = [weight for weight, number in zip(weights, rows) if number]
    if stopping == "quota" or not given:
        return list(weights)
    most = max(given) if stopping == "first_exhausted" else min(given)
    return [weight / most for weight in weights]


class Mixing:
    """The draws of one lane, endless or for `rounds` rounds.

    Its state is `taken`, the rows drawn from each source so far, and `given_up`, the sources that are not drawn from
    any more.
    """

    def __init__(
        self,
        orders: list[SourceOrder],
        weights: list[float],
        seed: int,
        lane: int,
        *,
        rounds: int | None = None,
        taken: list[int] | None = None,
    ):
        self.orders, self.weights, self.rounds = orders, weights, rounds
        self.taken = list(taken) if taken is not None else [0] * len(orders)
        self.given_up: set[int] = set()
        self.draws = Draws(seed, "source", lane)
        self.block_quotas = [[0] for _ in orders]
        self.round = 0
        self.quotas = self.quotas_after(0)

    def quotas_after(self, round_number: int) -> list[int]:
        """Return the rows of each source up to the end of this round."""
        return [self.quota(source, round_number + 1) for source in range(len(self.orders))]

    def quota(self, source: int, rounds: int) -> int:
        """Return this lane's part of the rows of a source in this number of rounds.

        The rows of a round are dealt one by one, as the source's own rows are. In a source of large blocks, lanes have
        different numbers of rows: then a lane's part is proportional to its rows of an epoch.
        """
        permutations, lane = self.orders[source].permutations, self.orders[source].lane
        if permutations.by_row:
            return max(0, -(-(self.given(source, rounds) - permutations.first_of(0, lane)) // permutations.lanes))
        known = self.block_quotas[source]
        while len(known) <= rounds:
            epoch = len(known) - 1
            rows = permutations.rows_of_lanes(epoch)
            before, own = int(rows[:lane].sum()), int(rows[lane])
            given = self.given(source, epoch + 1) - self.given(source, epoch)
            share = given * (before + own) // permutations.total - given * before // permutations.total
            known.append(known[-1] + share)
        return known[rounds]

    def given(self, source: int, rounds: int) -> int:
        """Return the rows of a source in this number of rounds, of all lanes."""
        return math.floor(self.weights[source] * self.orders[source].permutations.total * rounds + 0.5)

    def left(self) -> list[int]:
        left = [max(quota - taken, 0) for quota, taken in zip(self.quotas, self.taken)]
        for source in self.given_up:
            left[source] = 0
        return left

    def draw(self) -> tuple[int, int] | None:
        """Return (source, n), the source to read and its n-th row for this lane; None after the last round."""
        if not any(
            order.permutations.total for source, order in enumerate(self.orders) if source not in self.given_up
        ):
            return None
        while not any(left := self.left()):
            if self.rounds is not None and self.round + 1 >= self.rounds:
                return None
            self.round += 1
            self.quotas = self.quotas_after(self.round)
        target = self.draws[sum(self.taken)] * sum(left)
        source = 0
        for candidate, count in enumerate(left):
            if count:
                source = candidate
                target -= count
                if target < 0:
                    break
        number = self.taken[source]
        self.taken[source] += 1
        return source, number
