"""The commands `smol-hf data …`, as users type them and as the documentation shows them."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from chat_models import save_base
from doc_pages import ROOT
from doc_pages import commands as commands_of
from helpers import build_model, build_processor
from PIL import Image

from smol_hf.commands import data as commands
from smol_hf.commands.main import main
from smol_hf.data.records import registry
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.support.shipped_recipes import shipped_recipes

SHOWN = commands_of("data_commands")


def record(text, *images, answer="4"):
    parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}


RECIPE = {
    "preset": "tiny-vlm",
    "context_length": 256,
    "bf16": True,  # of a machine with a GPU: nothing here may ask for one
    "mixture": [
        {"data": "my.jsonl", "weight": 2},
        {"data": "texts.jsonl", "name": "texts", "adapter": "messages", "filters": {"max_characters": 20}},
    ],
    "output_dir": "runs/x",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    publish_checkpoint(place / "runs" / "demo" / "checkpoint", build_model(processor), processor)
    shutil.copy(ROOT / "docs" / "page.png", place / "page.png")
    lines = [record("Which digit?", "page.png"), record("What is <image>?", "page.png"), record("Hi")]
    (place / "my.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [record("short"), record("far too long for the filter")]
    (place / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "empty.jsonl").touch()
    (place / "useless.jsonl").write_text('{"messages": []}\n{"text": 5}\n')
    (place / "seen.jsonl").write_text(json.dumps(record("Which digit?", "page.png")) + "\n")
    save_base(place / "text", "ours")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def facts_of(capsys, *words):
    """What a command prints with --json."""
    assert main(["data", *words, "--json"]) == 0, capsys.readouterr().err
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_the_documentation_shows_every_command():
    assert {line.split()[2] for line in SHOWN} == set(commands.DATA_COMMANDS) - {"download"}
    assert all(line.startswith("smol-hf data ") for line in SHOWN)


def test_what_the_documentation_shows_runs_in_its_order(here, capsys):
    shutil.rmtree(here / "prepared", ignore_errors=True)  # another test may have run before
    for line in SHOWN:
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    assert (here / "preview.html").stat().st_size > 5000
    assert Image.open(here / "lengths.png").width > 500
    assert sorted(each.name for each in (here / "prepared" / "mixture").iterdir()) == ["my", "skipped.jsonl", "texts"]
    assert (here / "prepared" / "llava" / "data.jsonl").is_file()
    shutil.rmtree(here / "prepared")


def test_list_names_datasets_adapters_and_the_entries_of_a_recipe(here, capsys):
    facts = facts_of(capsys, "list")
    assert {"dataset": "HuggingFaceM4/FineVision", "adapter": "texts"}.items() <= next(
        each for each in facts["datasets"] if each["dataset"] == "HuggingFaceM4/FineVision"
    ).items()
    assert {each["name"] for each in facts["adapters"]} == set(registry.known_adapters())
    assert all(each["records"] and each["package"] == "smol_hf" for each in facts["adapters"])
    assert facts["broken"] == {} and "mixture" not in facts
    recipe = {**RECIPE, "mixture": [*RECIPE["mixture"], {"data": "nowhere.jsonl"}, {"data": "my.jsonl", "wieght": 1}]}
    (here / "other.yaml").write_text(yaml.safe_dump(recipe))
    first, second, third, fourth = facts_of(capsys, "list", "--config", "other.yaml")["mixture"]
    assert (first["name"], first["weight"], first["records"]) == ("my.jsonl", 2, 3)
    assert (second["name"], second["adapter"], second["records"]) == ("texts", "messages", 2)
    assert "nowhere.jsonl does not exist" in third["problem"] and "did you mean 'weight'" in fourth["problem"]
    assert main(["data", "list", "--config", "other.yaml"]) == 0
    assert "unreadable" in capsys.readouterr().out


def test_list_names_adapters_of_other_packages_and_those_that_are_broken(capsys, monkeypatch):
    monkeypatch.setattr(registry, "ADAPTERS", dict(registry.ADAPTERS))

    def of_a_plugin(record, place):
        """Letters and answers.

        More.
        """

    of_a_plugin.__module__ = "letters.adapters"
    registry.adapter("letters", datasets=("us/letters",), shape=("letter",))(of_a_plugin)
    monkeypatch.setattr(
        "smol_hf.data.records.registry.load_entry_points", lambda: {"poems": "poems:read: ImportError: no"}
    )
    facts = facts_of(capsys, "list")
    assert {"name": "letters", "records": "Letters and answers.", "known_by": "letter", "package": "letters"} in facts[
        "adapters"
    ]
    assert {"dataset": "us/letters", "adapter": "letters", "records": "Letters and answers."} in facts["datasets"]
    assert facts["broken"] == {"poems": "poems:read: ImportError: no"}
    assert main(["data", "list"]) == 0
    assert "unusable" in capsys.readouterr().out


def test_stats_of_a_recipe_need_no_machine_that_trains_it(here, capsys):
    facts = facts_of(capsys, "stats", "--config", "recipe.yaml")
    assert facts["context_length"] == 256 and facts["first"] is None
    images, texts = facts["sources"]
    assert (images["usable"], texts["usable"], texts["left_out"]["filtered"]) == (3, 1, 1)
    assert images["share_of_samples"] == pytest.approx(6 / 7)
    assert facts["packing"]["samples"] == 2 * 3 + 1 and facts["packing"]["truncated"] == 0


def test_stats_of_some_records_keep_the_shares_of_all(here, capsys):
    facts = facts_of(capsys, "stats", "--config", "recipe.yaml", "--number", "1")
    assert facts["first"] == 1 and [each["records"] for each in facts["sources"]] == [1, 1]
    assert facts["sources"][0]["share_of_samples"] == pytest.approx(3 * 2 / (3 * 2 + 2))


def test_endless_data_is_counted_in_part_and_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr(commands, "UNSURVEYED", 7)
    facts = facts_of(capsys, "stats", "digits", "--model", "runs/demo/checkpoint")
    assert facts["first"] == facts["all"]["records"] == 7
    assert main(["data", "stats", "digits", "--model", "runs/demo/checkpoint"]) == 0
    assert "Of the first 7 records" in capsys.readouterr().out


def test_any_key_of_a_recipe_can_be_set(here, capsys):
    words = ("stats", "my.jsonl", "--model", "runs/demo/checkpoint", "--filters.max_characters", "5")
    facts = facts_of(capsys, *words, "--packing-pool", "9")
    assert facts_of(capsys, *words[:4], "--set", "filters.max_characters=5", "--set", "packing_pool=9") == facts
    assert facts["all"]["left_out"]["filtered"] == 2 and facts["packing"]["pool_size"] == 9


RECIPES = [
    path
    for path in shipped_recipes().values()
    if path.parent.name != "mixtures" and not path.stem.startswith("dpo")  # pairs are not previewed
]


def test_documents_are_nothing_to_preview(here, capsys):
    Path("recipe.yaml").write_text("preset: tiny-text\ndocuments: texts.txt\n")
    assert main(["data", "preview", "--config", "recipe.yaml"]) == 1
    assert "documents are plain texts, but this command reads conversations" in capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_preview_of_every_shipped_recipe(path, here, capsys):
    recipe = yaml.safe_load(path.read_text("utf-8"))
    words = ["preview", "--config", str(path), "--number", "2", "--output", "of-recipe.html"]
    is_chat = "chat_template" in recipe
    if "model" in recipe:
        words += ["--model", str(save_base(here / "base", "native")) if is_chat else "runs/demo/checkpoint"]
    if is_chat:
        talks = [
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": text}]}
            for text in "ab"
        ]
        Path("chats.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
        words[1:1] = ["chats.jsonl", "--context_length", "128", "--dataset_config", "null"]
    elif recipe.get("data", "digits") != "digits":
        words.insert(1, "my.jsonl")
    if "mixture" in recipe or "documents" in recipe:
        pytest.skip("its data is not at hand, or no conversations")
    assert facts_of(capsys, *words)["shown"] == 2
    assert "2 samples as they will be trained" in Path("of-recipe.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stats", "my.jsonl"], "name a checkpoint (--model), a preset (--preset) or a recipe (--config)"),
        (["stats", "--model", "runs/demo/checkpoint"], "data is missing: name a file or folder"),
        (["stats", "nowhere.jsonl", "--preset", "tiny-vlm"], "nowhere.jsonl does not exist"),
        (["stats", "my.jsonl", "--preset", "tiny"], "unknown preset 'tiny'"),
        (["stats", "my.jsonl", "--preset", "tiny-vlm", "--set", "filtres.max_turns=1"], "did you mean 'filters'"),
        (["stats", "my.jsonl", "--preset", "tiny-vlm", "--set", "filters.max_turns"], "write --filters.max_turns VAL"),
        (
            ["stats", "useless.jsonl", "--preset", "tiny-vlm"],
            "none of 2 records are usable; the first: useless.jsonl:1:",
        ),
        (["preview", "useless.jsonl", "--preset", "tiny-vlm"], "no record is usable: preview.html lists the reasons"),
        (["prepare", "useless.jsonl", "--output", "x"], "error: none of 2 samples can be used; the first: useless.j"),
        (["stats", "seen.jsonl", "--model", "text"], "it has no image encoder, but seen.jsonl:1 shows an image"),
        (["stats", "empty.jsonl", "--preset", "tiny-vlm"], "empty.jsonl"),
        (["stats", "my.jsonl", "--preset", "tiny-vlm", "--number", "0"], "--number is 0"),
        (["stats", "my.jsonl", "--preset", "tiny-vlm", "--context-length", "9999"], "more than the 512 positions"),
        (["stats", "my.jsonl", "--model", "nowhere/at/all"], "error: "),
        (["preview", "my.jsonl", "--preset", "tiny-vlm", "--number", "0"], "--number is 0"),
        (["preview", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
        (["preview", "my.jsonl", "--config", "recipe.yaml"], "exclude each other"),
        (["prepare", "my.jsonl", "--adapter", "messges", "--output", "x"], "did you mean 'messages'"),
        (["prepare", "my.jsonl", "--output", "runs"], "runs is there already"),
        (
            ["prepare", "my.jsonl", "--output", "x", "--format", "llava", "--rows-per-shard", "3"],
            "rows_per_shard is 3",
        ),
        (["list", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words, message, here, capsys):
    assert main(["data", *words]) == 1
    error = capsys.readouterr().err
    assert "error: " in error and message in error and "Traceback" not in error
    assert len(error.split("error: ")[1].splitlines()) == 1
    assert not (here / "x").exists()


def test_a_preview_of_nothing_is_an_error_that_names_the_first_reason(here, capsys):
    Path("nothing").mkdir(exist_ok=True)
    shutil.copy("page.png", "nothing/page.png")
    Path("work").mkdir(exist_ok=True)
    assert main(["data", "preview", "nothing", "--preset", "tiny-vlm", "--output", "nothing.html"]) == 1
    message = capsys.readouterr().err
    assert "no record is usable: nothing.html lists the reasons; the first: page.png: has no caption" in message
    assert "has no caption" in Path("nothing.html").read_text()
    shutil.copytree("nothing", "captioned", dirs_exist_ok=True)
    Path("captioned/page.txt").write_text("A page.")
    assert main(["data", "preview", "work/../captioned", "--preset", "tiny-vlm", "--output", "one.html"]) == 0
    assert "A page." in Path("one.html").read_text()


def test_shards_are_one_source_with_the_statistics_of_one_preparation(here, capsys):
    with (here / "many.jsonl").open("w") as file:
        for number in range(7):
            file.write(json.dumps(record(f"Which {number}?" * (number + 1), "page.png") if number != 4 else {}) + "\n")
    model = ["--model", "runs/demo/checkpoint"]
    one = facts_of(capsys, "prepare", "many.jsonl", "--output", "parts/one")
    prepare = ["data", "prepare", "many.jsonl", "--output", "parts/shards", "--shard"]
    for number in (3, 1):
        assert main([*prepare, f"{number}/3"]) == 0
    printed = capsys.readouterr().out
    assert "shard 3 of 3" in printed and "shards 1, 2 of 3 are missing: run the same smol-hf data prepare" in printed
    for command in (["data", "stats", "parts/shards", *model], ["data", "preview", "parts/shards", *model]):
        assert main(command) == 1
        assert "shard 2 of 3 is missing: run the same smol-hf data prepare with --shard 2/3" in capsys.readouterr().err
    assert main([*prepare, "2/3"]) == 0
    assert "all 3 shards" in capsys.readouterr().out
    assert main([*prepare, "1/3"]) == 0
    printed = capsys.readouterr().out
    assert "shard 1 of 3 was complete already: nothing was written" in printed and "Skipped:" in printed
    again = facts_of(capsys, *prepare[1:], "1/3")["all"]
    assert {**again[0], "shards": 1} == one["sources"][0] and again[0]["shards"] == 3
    stats = [facts_of(capsys, "stats", f"parts/{name}", *model)["all"] for name in ("one", "shards")]
    assert stats[0] == stats[1] and stats[0]["usable"] == 6
