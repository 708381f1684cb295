"""What `data` may name, how its records are read, and what is filtered out of them."""

import json
import re

import pytest
from helpers import build_processor
from shards import write_parquet

from smol_hf import train
from smol_hf.data.conversation import Conversation, Message, SampleError, TextPart
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.training.data import measure_data, open_data
from smol_hf.training.model import composition
from smol_hf.training.model.composition import texts_of
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.recipes import load_arguments


def usable(path, **keys):
    """(ids of the samples that a run would use, the ledger of the others)."""
    arguments = DataArguments(data=str(path), context_length=256, **keys)
    data = open_data(arguments, seed=0)
    plan = Plan(data.sources, [1.0], SampleWork(build_processor(longest_edge=32), 256, data.readers), 256)
    skipped = SkippedSamples("stop")
    measure_data(plan, data, arguments, skipped)
    return [conversation.sample_id for conversation in data.conversations()], skipped


def test_a_folder_of_parquet_files_is_read_and_filtered_by_its_ratings(tmp_path):
    folder = write_parquet(tmp_path / "pages")
    everything, skipped = usable(folder)
    assert len(everything) == 24 and not len(skipped)
    assert everything[:2] == ["part-0.parquet:1", "part-0.parquet:2"]
    good, skipped = usable(folder, filters={"min_ratings": {"relevance": 4}})
    assert len(good) == sum(index % 5 + 1 >= 4 for index in range(24))
    assert len(skipped.left_out) == 24 - len(good) and not skipped.faults
    assert "filtered out" in skipped.summary()
    assert usable(folder / "part-1.parquet")[0] == [f"part-1.parquet:{row}" for row in range(1, 13)]


def run_on(folder, output, *more):
    common = ["--preset", "tiny-vlm", "--context_length", "128", "--use_cpu", "true"]
    if "--save_steps" not in more:
        common += ["--save_strategy", "no"]
    return [*common, "--data", str(folder), "--output_dir", str(output), *more]


def test_a_run_trains_on_parquet(tmp_path, capsys):
    folder = write_parquet(tmp_path / "pages")
    recipe = run_on(folder, tmp_path / "run", "--num_train_epochs", "2", "--per_device_train_batch_size", "5")
    assert train.main(recipe) == 0
    state = json.loads(next((tmp_path / "run").glob("run.json")).read_text())
    assert state["steps"] == 10, "24 samples twice, five at a time"
    assert "24 samples from" in capsys.readouterr().out


def test_the_adapter_may_be_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"caption": "A cat.", "image": "a.png", "sentences": None}) + "\n")
    conversations = list(
        open_data(DataArguments(data=str(tmp_path / "rows.jsonl"), adapter="captions"), 0).conversations()
    )
    assert conversations[0].messages[1].parts[0].text == "A cat."
    with pytest.raises(ValueError, match="unknown adapter 'caption': did you mean 'captions'"):
        open_data(DataArguments(data=str(tmp_path / "rows.jsonl"), adapter="caption"), 0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--adapter", "lava"], "unknown adapter 'lava': did you mean 'llava'"),
        (["--filters.min_image", "1"], "did you mean 'min_images'"),
        (["--filters.max_turns", "-1"], "max_turns must be a whole number"),
    ],
)
def test_a_filter_or_adapter_that_there_is_not_is_an_error(keys, message, tmp_path, capsys):
    folder = write_parquet(tmp_path / "pages")
    recipe = [
        "--preset",
        "tiny-vlm",
        "--data",
        str(folder),
        "--output_dir",
        str(tmp_path / "run"),
        "--use_cpu",
        "true",
    ]
    load_arguments([*recipe, *keys])
    assert train.main([*recipe, *keys]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_parquet_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl .* or \.tar file and no image"):
        open_data(DataArguments(data=str(tmp_path)), 0)


def test_a_strict_filter_neither_stops_a_run_nor_empties_its_rows(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a" if n % 300 == 7 else "long " * 10},
                          {"role": "assistant", "content": "y"}]} for n in range(900)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = DataArguments(data=str(tmp_path / "rows.jsonl"), filters={"max_characters": 10})
    data = open_data(arguments, seed=0)
    plan = Plan(data.sources, [1.0], SampleWork(build_processor(), 256, data.readers), 256, lanes=1)
    skipped, stream = SkippedSamples("stop"), iter(RowStream(plan))
    for _ in range(6):
        row = next(stream)
        assert len(row.samples) == 1
        skipped.note(len(row.samples), row.faults)
    assert len(skipped.left_out) > 500 and not skipped.faults


def test_data_nobody_looked_at_has_its_limit_and_no_old_ledger(tmp_path):
    (tmp_path / "skipped.jsonl").write_text("{}\n")
    arguments = DataArguments(data="digits", num_pages=20)
    data = open_data(arguments, seed=0)
    plan = Plan(data.sources, [1.0], SampleWork(build_processor(), 256, data.readers), 256)
    skipped = SkippedSamples("skip", max_fraction=0.1, path=tmp_path / "skipped.jsonl")
    measure_data(plan, data, arguments, skipped)
    assert not (tmp_path / "skipped.jsonl").exists()
    skipped.note(1, [SampleError("a", "bad"), SampleError("b", "bad")])
    with pytest.raises(SampleError, match=r"3 of 20 samples cannot be used, more than max_skipped_fraction 0\.1"):
        skipped.note(1, [SampleError("c", "bad")])


def test_workers_that_cannot_share_the_lanes_are_an_error_of_the_recipe(tmp_path, capsys):
    recipe = ["--preset", "tiny-vlm", "--data", "digits", "--num_pages", "20", "--context_length", "128"]
    more = ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--dataloader_num_workers", "3"]
    assert train.main([*recipe, "--max_steps", "1", *more]) == 1
    assert "data_lanes 16 is not a multiple of 1 process × 3 workers = 3: use 18 or 21" in capsys.readouterr().err


def test_blank_lines_are_no_samples(tmp_path, capsys):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(row), "", json.dumps(row), "", ""]))
    assert train.main(run_on(tmp_path / "rows.jsonl", tmp_path / "run", "--max_steps", "1")) == 0
    assert "2 samples from rows.jsonl; 0 samples left out" in capsys.readouterr().out


def test_a_run_counts_and_names_what_it_shortened(tmp_path, capsys):
    rows = [
        {"messages": [{"role": role, "content": f"{role} {turn}."} for turn in range(turns) for role in
                      ("user", "assistant")]}
        for turns in (1, 12, 1, 12)
    ]  # fmt: skip
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = run_on(tmp_path / "talk.jsonl", tmp_path / "run", "--max_steps", "4", "--too_long", "[tiles, turns]")
    assert train.main([*recipe, "--per_device_train_batch_size", "1", "--logging_steps", "1"]) == 0
    assert "2 of them lose tiles or turns to fit" in capsys.readouterr().out
    entries = [json.loads(line) for line in (tmp_path / "run" / "shortened.jsonl").read_text().splitlines()]
    assert sorted(entry["sample"] for entry in entries) == ["talk.jsonl:2", "talk.jsonl:4"]
    assert all(entry["shortened"].endswith("of 12 turns") for entry in entries)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-2]["total_shortened_samples"] == 2 and log[-2]["total_skipped_samples"] == 0


def talk(folder, number, name="talk.jsonl"):
    rows = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}."}]}
            for n in range(number)]  # fmt: skip
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def unsurveyed(monkeypatch):
    monkeypatch.setattr("smol_hf.data.mixture.mixture.MOST_SURVEYED", 5)


def test_a_run_over_data_that_nobody_looked_through_ends_with_the_data(tmp_path, capsys, unsurveyed):
    recipe = run_on(talk(tmp_path, 60), tmp_path / "run", "--num_train_epochs", "2", "--sample_packing", "true")
    assert train.main([*recipe, "--per_device_train_batch_size", "2", "--logging_steps", "1"]) == 0
    assert "the run ends with the data" in " ".join(capsys.readouterr().out.split())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "loss" in entry]
    assert steps[-1]["total_samples"] == 120 and steps[-1]["step"] < 40, "packed, it is far fewer than 60 steps"
    assert sum(entry["loss"] in (None, 0.0) for entry in steps) <= 8, "at most each lane's last row is empty"


@pytest.mark.parametrize("keys", [["--filters.max_characters", "1"], ["--filters.min_images", "1"]])
def test_a_run_that_could_use_nothing_is_an_error(tmp_path, capsys, unsurveyed, keys):
    recipe = run_on(talk(tmp_path, 40), tmp_path / "run", "--num_train_epochs", "1", *keys)
    assert train.main(recipe) == 1
    assert "no sample could be trained on: 40 samples left out" in capsys.readouterr().err


@pytest.mark.parametrize("length", [["--max_steps", "6"], ["--num_train_epochs", "1.5"]])
def test_going_on_with_a_run_that_is_over_trains_no_step_more(tmp_path, length, capfd):
    more = ("--save_steps", "3", "--lr_scheduler_type", "constant")
    recipe = run_on(talk(tmp_path, 32), tmp_path / "run", *length, *more)
    assert train.main(recipe) == 0
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    weights = (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes()
    capfd.readouterr()
    assert train.main([*recipe, "--resume_from_checkpoint", "true"]) == 0
    printed = capfd.readouterr()
    assert re.search(r"the run is finished at step \d+: to train further, raise max_steps", printed.out)
    assert "epoch_iterator" not in printed.out + printed.err, "transformers' guess"
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == checkpoints
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").read_bytes() == weights


def test_a_ledger_with_a_torn_line_does_not_stop_a_resume(tmp_path):
    recipe = run_on(talk(tmp_path, 12), tmp_path / "run", "--save_steps", "1")
    assert train.main([*recipe, "--max_steps", "2"]) == 0
    for name in ("skipped.jsonl", "shortened.jsonl"):
        (tmp_path / "run" / name).write_text('{"sample": "x:7", "rea')
    assert train.main([*recipe, "--max_steps", "3", "--resume_from_checkpoint", "true"]) == 0


def test_a_tokenizer_is_trained_on_the_beginning_of_each_text_and_on_no_more_than_a_limit(monkeypatch):
    said = Conversation("a", (Message("user", (TextPart("x" * 25_000),)), Message("assistant", (TextPart("yes"),))))
    assert list(texts_of([said])) == ["User:", "x" * 10_000, "Assistant:", "yes"]
    monkeypatch.setattr(composition, "ALL_CHARACTERS", 15_000)
    assert [len(text) for text in texts_of([said] * 5)].count(10_000) == 2
