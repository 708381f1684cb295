"""Before a training each record is read once, and its size is remembered for the next start."""

import dataclasses
import json
import multiprocessing
import os
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from chat_models import QWEN3_LIKE, chat_tokenizer
from helpers import build_processor
from PIL import Image

from smol_hf import train
from smol_hf.data.records.registry import ADAPTERS
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.sources.json_source import JsonSource
from smol_hf.data.stream import size_cache
from smol_hf.data.stream.size_cache import entry_of
from smol_hf.text.chat import TextChat
from smol_hf.training.checkpoint.fingerprints import fingerprint
from smol_hf.training.data import (
    describe_progress,
    measure_data,
    open_data,
    plan_of,
    rows_of_the_run,
)
from smol_hf.training.log.console import ProgressLines
from smol_hf.training.recipe.data_arguments import DataArguments

RECORDS = 12
GOLDEN = "e3b9b35e3b447cb0cecf67abaecdcf5f1a4b8c5c2799c6b9483d6571a13acf6b"  # computed by the code before the cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of entries, which begins empty."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    monkeypatch.setattr(size_cache, "cached_assets_path", lambda *names: folder)
    return folder


@pytest.fixture
def counts(monkeypatch):
    """How often each record was read from its file, and adapted."""
    counted = {"read": Counter(), "adapted": Counter()}
    captions, read_rows = ADAPTERS["captions"], JsonSource.read_rows

    def read(record, place):
        counted["adapted"][place.where] += 1
        return captions.read(record, place)

    def read_and_count(source, first, last):
        rows = read_rows(source, first, last)
        counted["read"].update(where for where, _ in rows)
        return rows

    monkeypatch.setitem(ADAPTERS, "captions", dataclasses.replace(captions, read=read))
    monkeypatch.setattr(JsonSource, "read_rows", read_and_count)
    return counted


@pytest.fixture
def data(tmp_path):
    """Captions of images; one image is missing, one caption is too long, one row is blank."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [{"image": f"{number}.bmp", "caption": f"Number {number}."} for number in range(RECORDS)]
    lines[4]["image"], lines[7]["caption"] = "missing.bmp", "Long. " * 200
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines[:3])) + "\n\n")
    with (folder / "rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines[3:]))
    for number in range(RECORDS):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / f"{number}.bmp")
    return folder / "rows.jsonl"


def looked_through(path, processor=None, console=None, **keys):
    """(plan, data, ledger) after the pass before a training."""
    arguments = DataArguments(data=str(path), on_bad_sample="skip", max_skipped_fraction=1.0, context_length=128)
    arguments = dataclasses.replace(arguments, **keys)
    training = SimpleNamespace(seed=0, data_seed=None, max_steps=-1, num_train_epochs=2)
    opened, skipped = open_data(arguments, 0), SkippedSamples("skip", 1.0)
    plan = plan_of(opened, processor or build_processor(longest_edge=32), arguments, training, 4)
    return *measure_data(plan, opened, arguments, skipped, console), skipped


def outcome(path, **keys):
    """Everything that a run takes from the pass."""
    plan, data, skipped = looked_through(path, **keys)
    faults = [(type(each), each.where, each.problem, each.source) for each in [*skipped.faults, *skipped.left_out]]
    sizes = {place: str(each) for place, each in data.found.found.items()}
    rows, read_images = rows_of_the_run(plan, data, 2), keys.get("verify_images", False)
    use = {source: vars(each) for source, each in data.found.use.items()}
    return sizes, faults, use, data.found.rows, rows, fingerprint(data, read_images), data.found.longest_run


def test_a_run_of_one_epoch_reads_and_adapts_each_record_three_times(counts, data, tmp_path):
    """For the tokenizer, before the training and in it; five times, and adapted four times, before."""
    words = ["--preset", "tiny-vlm", "--data", str(data), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    words += ["--num_train_epochs", "1", "--save_strategy", "no", "--context_length", "128"]
    words += ["--on_bad_sample", "skip", "--max_skipped_fraction", "1", "--sample_packing", "true"]
    assert train.main(words) == 0
    assert set(counts["read"].values()) == set(counts["adapted"].values()) == {3}
    assert len(counts["adapted"]) == RECORDS


def test_a_second_start_on_unchanged_data_reads_nothing(counts, data, cache):
    first = outcome(data)
    assert set(counts["adapted"].values()) == set(counts["read"].values()) == {1}
    assert len(list(cache.glob("*.json"))) == 1 and len(first[1]) == 2
    assert outcome(data) == first
    assert set(counts["adapted"].values()) == set(counts["read"].values()) == {1}


def test_a_second_start_knows_the_sequences_of_a_conversation(tmp_path):
    """The template writes earlier answers otherwise, so that each answer is a sequence of its own."""
    turns = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "No.", "reasoning": "Dry."}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": turns * length}) + "\n" for length in (1, 2, 3)))
    first, second = (
        outcome(path, processor=TextChat(chat_tokenizer(QWEN3_LIKE)), context_length=512) for _ in range(2)
    )
    assert second == first and str(first[0]).count("units=(Size") == 2


def test_the_fingerprint_is_that_of_older_states(data):
    assert outcome(data)[-2] == GOLDEN


def rewrite(path, content):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def with_more_tokens():
    processor = build_processor(longest_edge=32)
    processor.tokenizer.add_tokens(["Number"])
    return processor


CHANGES = {
    "context": {"context_length": 96},
    "shortening": {"too_long": ["turns"]},
    "filters": {"filters": {"max_characters": 100}},
    "ignored fields": {"ignore_fields": ["source"]},
    "decoding": {"verify_images": True},
    "adapter": {"adapter": "captions"},
    "tiles": {"processor": lambda: build_processor(longest_edge=64)},
    "splitting": {"processor": lambda: build_processor(longest_edge=32, do_image_splitting=False)},
    "tokenizer": {"processor": with_more_tokens},
    "template": {"processor": lambda: build_processor(longest_edge=32, chat_template="{{ messages }}")},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_that_may_change_a_size_has_an_entry_of_its_own(name, data):
    keys = dict(CHANGES[name])
    processor = keys.pop("processor", lambda: build_processor(longest_edge=32))()
    common = {"data": str(data), "context_length": 128}
    training = SimpleNamespace(seed=0, data_seed=None, max_steps=-1, num_train_epochs=2)

    def entry(processor, **keys):
        arguments = DataArguments(**{**common, **keys})
        plan = plan_of(open_data(arguments, 0), processor, arguments, training, 4)
        return entry_of(plan, arguments.verify_images)

    plain = entry(build_processor(longest_edge=32))
    assert plain is not None and plain == entry(build_processor(longest_edge=32))
    assert entry(processor, **keys) not in (None, plain)


def make_larger(folder):
    rewrite(folder / "0.bmp", (folder / "wide.bmp").read_bytes())


FILES = {
    "a record": lambda folder: rewrite(folder / "rows.jsonl", (folder / "rows.jsonl").read_bytes()[:-1] + b" "),
    "the time of the data": lambda folder: os.utime(folder / "rows.jsonl", (1, 1)),
    "an image of the same time": make_larger,
    "an image that was missing": lambda folder: (folder / "0.bmp").rename(folder / "missing.bmp"),
    "an image that is gone": lambda folder: (folder / "1.bmp").unlink(),
}


@pytest.mark.parametrize("name", FILES)
def test_changed_files_are_measured_again(name, counts, data, cache):
    Image.new("RGB", (90, 20)).save(data.parent / "wide.bmp")
    first = outcome(data)
    FILES[name](data.parent)
    second = outcome(data)
    assert set(counts["adapted"].values()) == {2}
    for entry in cache.glob("*.json"):
        entry.unlink()
    assert second == outcome(data)
    assert (second != first) == (name != "the time of the data")


@pytest.mark.parametrize("damage", [lambda text: text[:-7], lambda text: text.replace("40", "41", 1), lambda _: ""])
def test_a_damaged_entry_is_ignored_and_replaced(damage, counts, data, cache):
    first = outcome(data)
    (entry,) = cache.glob("*.json")
    whole = entry.read_text()
    entry.write_text(damage(whole))
    assert outcome(data) == first and set(counts["adapted"].values()) == {2}
    assert entry.read_text() == whole
    assert [path.name for path in cache.iterdir() if path.is_file()] == [entry.name]


def test_a_folder_that_cannot_be_written_changes_nothing(data, tmp_path, monkeypatch):
    first = outcome(data)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(size_cache, "cached_assets_path", lambda *names: tmp_path / "file")
    assert outcome(data) == first


def test_entries_that_were_not_used_for_long_go(data, cache, monkeypatch):
    monkeypatch.setattr(size_cache, "KEPT", 2)
    for length in (126, 127, 128):
        looked_through(data, context_length=length)
        time.sleep(0.02)
    looked_through(data, context_length=127)
    looked_through(data, context_length=129)
    assert len(list(cache.glob("*.json"))) == 2


def test_an_adapter_in_a_file_of_the_user_is_asked_each_time(data, cache, tmp_path):
    (tmp_path / "cards.py").write_text(
        "from smol_hf.data.records import adapter\nfrom smol_hf.data.records.captions import *\n"
        "from smol_hf.data.records.registry import ADAPTERS\n"
        "adapter('cards')(lambda record, place: ADAPTERS['captions'].read(record, place))\n"
    )
    try:
        looked_through(data, adapter=str(tmp_path / "cards.py"))
    finally:
        ADAPTERS.pop("cards", None)
    assert not list(cache.glob("*.json"))


def rank(number, barrier, data, results):
    state = SimpleNamespace(
        is_main_process=number == 0, is_local_main_process=number == 0, wait_for_everyone=barrier.wait
    )
    survey, surveyed = size_cache.survey, []

    def noted(*arguments, **keys):
        surveyed.append(number)
        time.sleep(0.3)
        return survey(*arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(size_cache, "survey", noted)
        patch.setattr("smol_hf.training.data.PartialState", lambda: state)
        results.put((number, surveyed, outcome(data)))


def test_of_several_processes_one_measures(data):
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(3), fork.Queue()
    processes = [fork.Process(target=rank, args=(number, barrier, data, results)) for number in range(3)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=60) for _ in processes), key=lambda each: each[0])
    for process in processes:
        process.join()
    assert [surveyed for _, surveyed, _ in found] == [[0], [], []]
    assert found[0][2] == found[1][2] == found[2][2]


def test_the_progress_is_shown_every_few_seconds_by_the_main_process(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress, silent = ProgressLines(SimpleNamespace(print=said.append)), ProgressLines(None)
    for done in range(1, 101):
        now[0] += 0.25
        progress.show(lambda seconds, done=done: describe_progress(done, 100, seconds))
        silent.show(pytest.fail)
    assert len(said) == 4
    assert said[0] == "measuring the data: 21 of 100 records, 4 per second, 20 s left"
