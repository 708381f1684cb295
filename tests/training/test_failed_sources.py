"""A mixture of which some sources fail: they are named, and by the recipe's policy stop the run or are left out."""

import json
import shutil

import pytest
import yaml

from smol_hf import train
from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.failed_sources import refuse_disagreement
from smol_hf.training.log.console import read_log

TEXT = {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "one two"}]}
BAD = {"messages": [{"role": "user", "content": "Nobody answers."}]}


def rows(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    """A mixture of four: two good ones, one that is missing, one in which nothing can be used."""
    mixture = [
        {"data": rows(tmp_path / "a.jsonl", *[TEXT] * 30), "name": "first", "modality": "text"},
        {"data": rows(tmp_path / "b.jsonl", *[TEXT] * 8), "samples": 20, "name": "second", "modality": "text"},
        {"data": str(tmp_path / "c.jsonl"), "name": "missing", "samples": 40, "modality": "image"},
        {"data": rows(tmp_path / "d.jsonl", *[BAD] * 10), "name": "useless", "modality": "text"},
    ]
    keys = {"mixture": mixture, "preset": "tiny-vlm", "context_length": 128, "max_steps": 4, "use_cpu": True,
            "per_device_train_batch_size": 4, "logging_steps": 1, "save_steps": 2,
            "output_dir": str(tmp_path / "run")}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def run(recipe, *more):
    return train.main(["--config", str(recipe), *more])


def test_by_default_the_run_stops_with_all_names(recipe, capsys):
    assert run(recipe) == 1
    error = capsys.readouterr().err
    assert "1 of 4 sources cannot be used" in error and "missing: the data file" in error
    rows(recipe.parent / "c.jsonl", TEXT)
    assert run(recipe, "--on_bad_sample", "skip") == 1
    error = capsys.readouterr().err
    assert "1 of 4 sources cannot be used" in error
    assert "useless: none of its 10 records can be used, the first: useless/d.jsonl:1: no assistant turn" in error
    assert not (recipe.parent / "run" / "run.json").exists()


def test_reweighting_is_visible_and_goes_on_with_the_same_sources(recipe, capsys):
    output = recipe.parent / "run"
    assert run(recipe, "--on_failed_source", "reweight") == 0
    printed = capsys.readouterr().out
    assert "left out of the mixture, 2 of 4 sources:" in printed and "useless: none of its 10 records" in printed
    # 30, 20, 40 and 10 records before; 30 and 20 now.
    assert printed.index("share before") < printed.index("step 1/4")
    assert [each for each in ("30.0%", "60.0%", "20.0%", "40.0%", "0.0%") if each not in printed] == []

    mixture = json.loads((output / "mixture.json").read_text())
    assert [each["name"] for each in mixture["sources"]] == ["first", "second"]
    assert [each["planned_share"] for each in mixture["sources"]] == pytest.approx([0.6, 0.4])
    assert [each["planned_share_before"] for each in mixture["sources"]] == pytest.approx([0.3, 0.2])
    assert sum(each["samples"] for each in mixture["sources"]) == 16
    assert [each["name"] for each in mixture["failed"]] == ["missing", "useless"]
    assert list(read_log(output)[0]["failed_sources"]) == ["missing", "useless"]
    saved = json.loads((output / "checkpoint-2" / "run.json").read_text())
    assert "does not exist" in saved["failed_sources"]["missing"]

    shutil.rmtree(output / "checkpoint-4")
    before = [entry for entry in read_log(output) if "loss" in entry]
    resume = ("--on_failed_source", "reweight", "--resume_from_checkpoint", "true")
    assert run(recipe, *resume) == 0
    after = [entry for entry in read_log(output) if "loss" in entry]
    for key in ("loss", "samples/first", "trained_tokens/second", "loss/first"):
        assert [entry.get(key) for entry in after] == [entry.get(key) for entry in before]

    capsys.readouterr()
    rows(recipe.parent / "c.jsonl", TEXT)
    assert run(recipe, *resume) == 1
    error = capsys.readouterr().err
    assert "was trained on other sources of the mixture: missing failed then" in error
    (recipe.parent / "c.jsonl").unlink()
    (recipe.parent / "a.jsonl").unlink()
    assert run(recipe, *resume) == 1
    assert "first fails now (the data file" in capsys.readouterr().err


def test_without_a_number_the_shares_of_before_are_not_known(recipe, capsys):
    keys = yaml.safe_load(recipe.read_text())
    del keys["mixture"][2]["samples"]
    recipe.write_text(yaml.safe_dump(keys))
    assert run(recipe, "--max_steps", "1", "--on_failed_source", "reweight") == 0
    assert "unknown" in capsys.readouterr().out
    mixture = json.loads((recipe.parent / "run" / "mixture.json").read_text())
    assert [each["planned_share_before"] for each in mixture["sources"]] == [None, None]


def test_processes_must_agree_about_what_failed():
    refuse_disagreement([["a", "b"], ["b", "a"]])
    with pytest.raises(SampleError, match="process 1 cannot use b, c, which other processes can"):
        refuse_disagreement([["a"], ["a", "c", "b"]])


def test_the_policy_is_one_of_two(recipe, capsys):
    assert run(recipe, "--on_failed_source", "ignore") == 1
    assert "choose stop or reweight" in capsys.readouterr().err
