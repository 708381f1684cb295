"""Batches that a thread prepares are those of a run without one, and so are the states of the data."""

import threading

import pytest
from helpers import build_processor
from memory_source import MemorySource

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.records import Place, adapt
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.training.loader import AHEAD, TrainingLoader

PROCESSOR = build_processor()
ASK = "What is this?"


def conversation(number):
    chat = [{"role": "user", "content": ASK}, {"role": "assistant", "content": f"It is {number}."}]
    return adapt({"messages": chat}, Place(f"x:{number}"))


def loader(ahead, *, records=None, states=None, collator=None, workers=0, rounds=2, **settings):
    rows = [(f"x:{number}", conversation(number)) for number in range(11)] if records is None else records
    work = SampleWork(PROCESSOR, 64, [None])
    plan = Plan([MemorySource("x", rows)], [1.0], work, 64, lanes=4, rounds=rounds, pool_size=3)
    stream = RowStream(plan, workers=workers, states=states or {})
    collator = collator or SmolCollator(PROCESSOR, packing=True)
    return TrainingLoader(stream, collator, batch_size=2, batches_per_epoch=3, ahead=ahead, **settings)


def read(loader, batches):
    """What a run sees of these batches, with the state after each."""
    seen = []
    for _ in range(batches):
        batch = loader.next_batch()
        seen.append((batch["input_ids"].tolist(), batch["sample_ids"], batch["finished"], loader.state_dict()))
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_states_are_those_without_a_thread_until_the_data_ends(workers):
    plain = read(loader(False), 9)
    assert [finished for *_, finished, _ in plain] == sorted(finished for *_, finished, _ in plain) and plain[-1][2]
    assert read(loader(True, workers=workers), 9) == plain


def test_a_state_is_that_of_the_batch_that_the_run_got_and_not_of_those_in_advance():
    plain = read(loader(False), 5)
    first = loader(True)
    read(first, 2)
    assert len(first.waiting) == AHEAD
    [job.result() for job in first.waiting]  # the rows were read
    states = {int(lane): state for lane, state in first.state_dict().items()}
    assert [sample_ids for _, sample_ids, *_ in read(loader(True, states=states), 3)] == [
        sample_ids for _, sample_ids, *_ in plain[2:]
    ]


def test_batches_are_stacked_in_one_thread_ahead_of_the_run_and_no_more_than_it_has_left():
    threads, collate = [], SmolCollator(PROCESSOR, packing=True)

    def noting(samples):
        threads.append(threading.current_thread().name)
        return collate(samples)

    made = loader(True, collator=noting, total_batches=4)
    assert len(list(made)) == 3 and len(list(made)) == 1  # an epoch, and the rest
    assert threads == ["MainThread", *["batches_0"] * 3]


def test_an_error_reaches_the_run_at_its_batch():
    collate = SmolCollator(PROCESSOR, packing=True)

    def failing(samples):
        if any(sample.sample_id == "x:7" for sample in samples):
            raise SampleError("x:7", "damaged")
        return collate(samples)

    plain, ahead = loader(False, collator=failing), loader(True, collator=failing)
    counts = []
    for made in (plain, ahead):
        with pytest.raises(SampleError, match="x:7"):
            for _ in range(9):
                made.next_batch()
        counts.append(made.batches)
    assert counts[0] == counts[1]
