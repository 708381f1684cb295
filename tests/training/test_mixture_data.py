"""A mixture of sources: its shares, and the mixtures that are refused."""

import json
from collections import Counter

import pytest
import yaml
from helpers import build_processor
from shards import write_parquet

from smol_hf import train
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.training.data import open_data, rows_of_the_run
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.recipes import parse_recipe


def mixture_of(tmp_path):
    folder = write_parquet(tmp_path / "pages")
    rows = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}]}
            for n in range(40)]  # fmt: skip
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        {"data": str(folder), "name": "pages", "weight": 2},
        {"data": str(tmp_path / "words.jsonl"), "weight": 0.5},
    ]


def test_a_mixture_gives_each_source_its_share(tmp_path):
    recipe = {"mixture": mixture_of(tmp_path), "preset": "tiny-vlm", "output_dir": "unused", "num_train_epochs": 1}
    _, arguments, _ = parse_recipe(recipe)
    data = open_data(arguments, seed=0)
    names = [conversation.sample_id for conversation in data.conversations()]
    assert names[0] == "pages/part-0.parquet:1" and names[24] == "words.jsonl:1"
    plan = Plan(
        data.sources, data.weights, SampleWork(build_processor(longest_edge=32), 256, data.readers), 256,
        rounds=2, lanes=4,
    )  # fmt: skip
    drawn, finished = Counter(), set()
    for row in RowStream(plan):
        drawn.update(sample.source for sample in row.samples)
        finished |= {row.lane} if row.finished else set()
        if len(finished) == 4:
            break
    assert drawn[0] == 2 * 2 * 24 and abs(drawn[1] - 2 * 0.5 * 40) <= 4
    assert rows_of_the_run(plan, data, 2) == 2 * (48 + 20)


def test_a_run_trains_on_a_mixture_from_a_recipe_file(tmp_path, capsys):
    recipe = {"mixture": mixture_of(tmp_path), "preset": "tiny-vlm", "max_steps": 3, "use_cpu": True,
              "output_dir": str(tmp_path / "run"), "context_length": 128}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert train.main(["--config", str(tmp_path / "recipe.yaml")]) == 0
    assert "64 samples from pages, words.jsonl" in capsys.readouterr().out
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert saved["mixture"] == recipe["mixture"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wieght": 1}, "entry 1: unknown key 'wieght': did you mean 'weight'"),
        ({"data": None}, r"entry 1 \(pages\): lacks the key 'data'"),
        ({"name": "words.jsonl"}, "duplicate name 'words.jsonl'"),
        ({"weight": 0}, r"entry 1 \(pages\): weight is 0: it must be a number"),
        ({"adapter": "lava"}, "did you mean 'llava'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(change, message, tmp_path):
    entries = mixture_of(tmp_path)
    entries[0] |= change
    with pytest.raises(ValueError, match=message):
        open_data(DataArguments(mixture=entries), seed=0)


def test_a_mixture_excludes_the_keys_of_a_single_source(tmp_path):
    entries = mixture_of(tmp_path)
    with pytest.raises(ValueError, match="mixture and data exclude each other"):
        DataArguments(mixture=entries, data="x.jsonl")
    with pytest.raises(ValueError, match="choose one of quota"):
        DataArguments(mixture=entries, stopping="never")


def test_files_of_one_name_in_two_folders_keep_their_samples_apart(tmp_path):
    for folder in ("cats", "dogs"):
        write_parquet(tmp_path / folder, 6)
    mixture = [{"data": str(tmp_path / folder)} for folder in ("cats", "dogs")]
    _, arguments, _ = parse_recipe({"mixture": mixture, "preset": "tiny-vlm", "output_dir": "unused"})
    names = [conversation.sample_id for conversation in open_data(arguments, seed=0).conversations()]
    assert len(set(names)) == 12 and names[0] == "cats/part-0.parquet:1" and "dogs/part-1.parquet:3" in names
