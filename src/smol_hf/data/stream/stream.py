"""The lanes of a run, shared between processes and their workers, as one sequence of rows.

Row q of the run is row q // lanes of lane q % lanes. With R processes, process k gets the rows q with q % R == k, and
its W workers share its lanes. So all steps have the same rows for any R and W if R × W divides the number of lanes. A
run may continue with another R and W.
"""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from smol_hf.data.sources.source import BlockCache, Source
from smol_hf.data.stream.lane import Lane, Row, RowReader
from smol_hf.data.stream.mixing import Mixing
from smol_hf.data.stream.order import Permutations, SourceOrder
from smol_hf.data.stream.packing import PackingPool
from smol_hf.support.formatting import counted

MOST_LANES = 65_536


def check_shares(lanes: int, ranks: int, workers: int, fixed: bool = False) -> None:
    """Raise ValueError, with numbers that fit, if the processes and their workers cannot share the lanes evenly.

    Args:
        fixed: the lanes cannot change, because a run that has begun keeps them.
    """
    share = ranks * max(workers, 1)
    if not lanes % share:
        return
    product = f"{counted(ranks, 'process', ending='es')} × {counted(max(workers, 1), 'worker')} = {share}"
    fault = f"data_lanes {lanes} is not a multiple of {product}"
    if fixed:
        fitting = ", ".join(str(each) for each in range(1, lanes + 1) if not lanes % each)
        raise ValueError(f"{fault}: a run keeps its lanes, so choose processes × workers among {fitting}")
    above = [lanes - lanes % share + share * each for each in (1, 2)]
    numbers = [str(number) for number in above if number <= MOST_LANES]
    advice = (
        f"use {' or '.join(numbers)}" if numbers else f"at most {MOST_LANES:,} processes × workers can read the data"
    )
    raise ValueError(f"{fault}: {advice}")


@dataclass
class Plan:
    """The settings that determine the sequence of rows.

    Args:
        sources, weights: of the mixture, see `Mixing`.
        rounds: rounds of the mixture; None: endless.
        lanes: streams of the run. Must not change during a run.
        pool_size: samples in the packing pool; 1: one sample per row.
        max_tiles: see `PackingPool`.
        give_up_after: see `Lane`.
    """

    sources: list[Source]
    weights: list[float]
    work: Any  # a `Work`; for a survey, a `SampleWork`
    context_length: int
    seed: int = 0
    rounds: int | None = None
    lanes: int = 16
    pool_size: int = 1
    max_tiles: int | None = None
    give_up_after: int | None = None

    def lane(self, number: int, cache: RowReader, state: dict | None = None) -> Lane:
        return next(self.some_lanes([number], cache, {} if state is None else {number: state}))

    def some_lanes(self, numbers: Sequence[int], cache: RowReader, states: dict[int, dict]) -> Iterator[Lane]:
        """Yield these lanes. They share the permutations of the sources, which are as long as these."""
        sources, before = [], 0
        for source in self.sources:
            shape = (source.name, source.block_sizes, source.rows_anywhere)
            sources.append(Permutations(*shape, self.seed, self.lanes, before, numbers))
            before += len(source)
        for number in numbers:
            orders = [SourceOrder(source, number) for source in sources]
            mixing = Mixing(orders, self.weights, self.seed, number, rounds=self.rounds)
            pool = PackingPool(self.context_length, max_tiles=self.max_tiles, size=self.pool_size)
            yield Lane(number, mixing, cache, self.work, pool, states.get(number), self.give_up_after)


class LaneShare(IterableDataset):
    """The rows of one process, from its workers in turn. `states`: of the lanes, by number, to continue from."""

    def __init__(self, plan: Plan, rank: int, ranks: int, states: dict[int, dict]):
        self.plan, self.rank, self.ranks, self.states = plan, rank, ranks, states

    def own_lanes(self) -> list[int]:
        """Return the lanes of this process, starting with the lane of its next row."""
        own = list(range(self.rank, self.plan.lanes, self.ranks))
        rows = [self.states.get(lane, {"rows": 0})["rows"] for lane in own]
        first = min(range(len(own)), key=lambda index: (rows[index], index))
        return own[first:] + own[:first]

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        cache = BlockCache(self.plan.sources)
        lanes = list(self.plan.some_lanes(self.own_lanes()[index::workers], cache, self.states))
        while True:
            for lane in lanes:
                yield lane.next_row()


@dataclass
class RowStream:
    """An iterator over the rows of one process. It can be saved after any row and continued from there.

    Raises:
        ValueError: if the lanes cannot be shared evenly.
    """

    plan: Plan
    rank: int = 0
    ranks: int = 1
    workers: int = 0
    states: dict[int, dict] = field(default_factory=dict)

    def __post_init__(self):
        check_shares(self.plan.lanes, self.ranks, self.workers)
        # States of other processes would be outdated here, and overwrite newer ones.
        own = range(self.rank, self.plan.lanes, self.ranks)
        self.states = {lane: self.states[lane] for lane in own if lane in self.states}

    def __iter__(self) -> Iterator[Row]:
        share = LaneShare(self.plan, self.rank, self.ranks, dict(self.states))
        # Workers give finished rows one by one, in turn, and prepare two each in advance.
        generator = torch.Generator()  # a draw from torch's global one would change dropout after a resume
        for row in obey_parent(DataLoader(share, batch_size=None, num_workers=self.workers, generator=generator)):
            self.states[row.lane] = row.state
            yield row

    def state_dict(self) -> dict[str, Any]:
        """Return the states of this process's lanes. Those of all processes are the state of the run."""
        return {str(lane): state for lane, state in self.states.items()}


# `sigtimedwait` tells who sent a signal. macOS and Windows lack it, and start workers in another way.
TELLS_SENDERS = hasattr(signal, "sigtimedwait")
SECONDS_BETWEEN_LOOKS = 5


def obey_parent(loader: DataLoader) -> DataLoader:
    """Let the workers of a loader ignore SIGINT, SIGUSR1, and SIGTERM from other processes than their parent.

    A terminal or a scheduler signals all processes of a run, but the training process decides when to end.
    """
    if TELLS_SENDERS and loader.num_workers:
        loader.multiprocessing_context = WorkerContext()
    return loader


if TELLS_SENDERS:

    class WorkerProcess(multiprocessing.context.ForkProcess):
        def start(self):
            """Start with signals blocked, which could end the new process before `run`."""
            self.run_pid = os.getpid()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def run(self):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=end_with_parent, args=(self.run_pid,), daemon=True).start()
            super().run()

    class WorkerContext(multiprocessing.context.ForkContext):
        Process = WorkerProcess


def end_with_parent(parent: int) -> None:
    """Wait for SIGTERM from the parent, or for its death, and end the process.

    A usual exit would wait for a reader of the rows that are left. Other workers hold the reading end too.
    """
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, SECONDS_BETWEEN_LOOKS)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
