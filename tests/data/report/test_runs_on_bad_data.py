"""Runs on data with unusable samples: they are listed, counted, and stop the run beyond a limit."""

import json

import pytest
from bad_data import batch_of, read, record, write
from helpers import build_processor, plan_for
from image_corpus import BAD_IMAGES, JPEG, READABLE, encoded, half_and_half

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.stream import RowStream
from smol_hf.training.data import open_data, plan_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_a_sample_longer_than_the_context_is_left_out_whole_and_named(tmp_path, processor):
    (tmp_path / "good.png").write_bytes(encoded(half_and_half(), "PNG"))
    path = write(tmp_path, [record("good.png"), record("good.png", answer="very long " * 300), record("good.png")])
    dataset, skipped = read(path, processor, context_length=200)
    assert [conversation.sample_id for conversation in dataset] == ["mine.jsonl:1", "mine.jsonl:3"]
    assert len(skipped.left_out) == 1 and not skipped.faults
    assert "more than context_length 200" in (tmp_path / "skipped.jsonl").read_text()
    batch = batch_of(dataset, processor)
    per_image = len(batch["pixel_values"]) // 2 * processor.image_seq_len
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [per_image, per_image]


def test_data_in_which_nothing_can_be_used_is_an_error(tmp_path, processor):
    with pytest.raises(SampleError, match="none of 2 samples"):
        read(write(tmp_path, [record("gone.png"), record("gone.png")]), processor, policy="skip")
    with pytest.raises(SampleError, match="holds no sample"):
        read(write(tmp_path, []), processor)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl", processor)


def test_samples_that_are_all_too_long_are_named(tmp_path, processor):
    path = write(tmp_path, [record(None, "hi " * 200)] * 2)
    with pytest.raises(SampleError, match=r"2 longer than the context:\n  mine\.jsonl:1: \d+ tokens, more than"):
        read(path, processor)


def test_too_many_faults_stop_the_run_even_when_skipping(tmp_path, processor):
    (tmp_path / "good.png").write_bytes(encoded(half_and_half(), "PNG"))
    path = write(tmp_path, [record("good.png")] * 8 + [record("gone.png")] * 2)
    skipped = SkippedSamples("skip", max_fraction=0.1)
    with pytest.raises(
        SampleError, match=r"2 of 10 samples of mine\.jsonl cannot be used, more than max_skipped_fraction 0\.1"
    ):
        read(path, processor, skipped=skipped)


def test_too_many_faults_found_while_training_stop_it_too(tmp_path):
    skipped = SkippedSamples("skip", max_fraction=0.1, path=tmp_path / "new" / "skipped.jsonl")
    skipped.settle({"a": 20})
    skipped.note(1, [SampleError("a:1", "damaged"), SampleError("a:2", "damaged")])
    with pytest.raises(SampleError, match=r"(?s)3 of 20 samples cannot be used.*3 × a:1: damaged \(also a:2, a:3\)"):
        skipped.note(1, [SampleError("a:3", "damaged")])
    assert len((tmp_path / "new" / "skipped.jsonl").read_text().splitlines()) == 3


def test_an_image_damaged_after_the_check_stops_or_is_counted(tmp_path, processor):
    (tmp_path / "good.png").write_bytes(encoded(half_and_half(), "PNG"))
    (tmp_path / "late.png").write_bytes(encoded(half_and_half(), "PNG"))
    dataset, _ = read(write(tmp_path, [record("good.png"), record("late.png")]), processor)
    (tmp_path / "late.png").write_bytes(JPEG[: len(JPEG) // 2])
    with pytest.raises(SampleError, match=r"mine\.jsonl:2: .*late\.png"):
        batch_of(dataset, processor)
    rows = [
        next(rows) for rows in [iter(RowStream(plan_for(dataset, processor, lanes=1, rounds=1)))] for _ in range(2)
    ]
    assert [sample.sample_id for row in rows for sample in row.samples] == ["mine.jsonl:1"]
    faults = [fault for row in rows for fault in row.faults]
    assert [fault.where for fault in faults] == ["mine.jsonl:2"]
    with pytest.raises(SampleError, match=r"mine\.jsonl:2.*\n.*--on_bad_sample skip"):
        SkippedSamples("stop").note(0, faults)
    nothing = SmolCollator(processor)([])
    assert nothing["input_ids"].shape == (1, 1) and (nothing["labels"] == -100).all()


def test_a_hundred_faults_in_a_row_stop_the_run():
    skipped = SkippedSamples("skip", max_fraction=1.0)
    for number in range(99):
        skipped.note(0, [SampleError(f"a:{number}", "damaged")])
    skipped.note(1, [])
    for number in range(100, 199):
        skipped.note(0, [SampleError(f"a:{number}", "damaged")])
    with pytest.raises(SampleError, match=r"100 samples in a row cannot be used"):
        skipped.note(0, [SampleError("a:200", "damaged")])


def test_the_ledger_names_a_sample_once_and_forgets_what_was_mended(tmp_path, processor):
    path = write(tmp_path, [record(), {"messages": [{"role": "user"}]}, record()])
    (tmp_path / "picture.png").write_bytes(JPEG)
    _, skipped = read(path, processor, policy="skip")
    ledger = tmp_path / "skipped.jsonl"
    assert len(ledger.read_text().splitlines()) == 1
    for _ in range(3):  # found while training, in each epoch
        skipped.note(1, [SampleError("mine.jsonl:1", "damaged")])
    assert len(ledger.read_text().splitlines()) == 2 and len(skipped.faults) == 2

    going_on = SkippedSamples("skip", max_fraction=1.0, path=ledger, keeps_earlier=True)
    read(path, processor, skipped=going_on)
    assert len(ledger.read_text().splitlines()) == 2, "a resumed run keeps what was found before"
    read(write(tmp_path, [record()]), processor)
    assert not ledger.exists()


@pytest.mark.parametrize("image_resizing", ["exact", "fast"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_through_the_whole_corpus(workers, image_resizing, tmp_path, processor):
    """Without a look at the data before it, as on a stream: each bad picture is named, each good one used, once."""
    corpus = [*((content, False) for content, _ in BAD_IMAGES.values()), *((c, True) for c, _ in READABLE.values())]
    assert len(corpus) >= 60 and len(BAD_IMAGES) >= 40
    for number, (content, _) in enumerate(corpus, start=1):
        if content is not None:
            (tmp_path / f"{number}.png").write_bytes(content)
    path = write(tmp_path, [record(f"{number}.png") for number in range(1, len(corpus) + 1)])
    arguments = DataArguments(
        data=str(path), context_length=256, image_resizing=image_resizing, sample_packing=True, packing_pool=4
    )
    training = SmolTrainingArguments(output_dir="unused", num_train_epochs=1, use_cpu=True)
    plan = plan_of(open_data(arguments, seed=0), processor, arguments, training, 4)
    used, faults, finished = [], [], set()
    for row in RowStream(plan, workers=workers):
        used += [sample.sample_id for sample in row.samples]
        faults += row.faults
        finished |= {row.lane} if row.finished else set()
        if len(finished) == plan.lanes:
            break
    places = {good: [f"mine.jsonl:{n}" for n, (_, each) in enumerate(corpus, 1) if each == good] for good in (0, 1)}
    assert sorted(used) == sorted(places[1]), "each good one once"
    assert sorted(fault.where for fault in faults) == sorted(places[0]), "each bad one named once"
    skipped = SkippedSamples("skip", max_fraction=1.0, path=tmp_path / "ledger.jsonl")
    skipped.expect({"mine.jsonl": len(corpus)})
    skipped.note(len(used), faults)
    entries = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert {entry["sample"] for entry in entries} == set(places[0])
    assert all(entry["reason"] for entry in entries)
