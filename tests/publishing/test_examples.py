"""The examples of a page are the model's own training data, or those of a file; never another model's."""

import io
import json
import shutil

import pytest
import yaml
from helpers import build_model, build_processor
from inference.text_checkpoints import CHAT_TEMPLATE, save_text_checkpoint
from PIL import Image

from smol_hf.commands.main import main
from smol_hf.inference.examples import examples_of
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.publishing.space.space import plan_space


def trained_on(run, recipe):
    """The checkpoint folder of a run on this machine."""
    (run / "checkpoint").mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text("{}")
    (run / "checkpoint" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return run / "checkpoint"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def colours(tmp_path):
    """Images of one colour each, one of them named by two rows that ask the same, and a row without an image."""
    for name, size in (("red", (40, 30)), ("blue", (3000, 1500)), ("green", (8, 8))):
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")

    def row(text, image=None):
        said = [{"from": "human", "value": f"{'<image>' if image else ''}{text}"}, {"from": "gpt", "value": "A."}]
        return {"conversations": said} | ({"image": f"{image}.png"} if image else {})

    rows = [row("Hello?"), row("Which red?", "red"), row("Which red?", "red"), row("x" * 400, "green")]
    return write_rows(tmp_path / "colours.jsonl", [*rows, row("Which blue?", "blue"), row("Which green?", "green")])


def test_they_are_samples_of_the_training_data(colours, tmp_path):
    examples = examples_of(trained_on(tmp_path / "run", {"data": colours}), shows_images=True)
    assert [example.text for example in examples.found] == ["Which red?", "Which blue?", "Which green?"]
    images = [Image.open(io.BytesIO(image)) for example in examples.found for image in example.images]
    assert [image.size for image in images] == [(40, 30), (1024, 512), (8, 8)]
    assert [image.getpixel((2, 2)) for image in images] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert colours in examples.note and not examples.of_digits


def test_a_mixture_gives_samples_of_its_sources(colours, tmp_path):
    recipe = {"mixture": [{"data": colours, "name": "colours"}], "data": None}
    examples = examples_of(trained_on(tmp_path / "run", recipe), shows_images=True)
    assert len(examples.found) == 3 and len(examples.found[0].images) == 1


def test_a_language_model_has_texts(colours, tmp_path):
    (tmp_path / "corpus.txt").write_text("one two three four five six seven eight nine ten\n" * 5)
    pairs = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(5)]
    pairs.insert(1, {"prompt": "damaged"})
    for recipe, expected in (
        ({"documents": str(tmp_path / "corpus.txt"), "data": "digits"}, ["one two three four five six seven eight"]),
        ({"data": write_rows(tmp_path / "pairs.jsonl", pairs), "beta": 0.1}, [f"Question {n}?" for n in range(3)]),
        ({"data": colours}, ["Hello?"]),
    ):
        examples = examples_of(trained_on(tmp_path / "run", recipe), shows_images=False)
        assert [(example.text, example.images) for example in examples.found] == [(text, ()) for text in expected]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({}, "names no training data"),
        ({"data": "owner/name"}, "is not on this machine"),
        ({"data": "s3://bucket/a.jsonl"}, "is not on this machine"),
        ({"data": "gone.jsonl"}, "gone.jsonl does not exist"),
        ({"data": "digits", "mixture": [{"data": "gone.jsonl"}]}, "gone.jsonl"),
        ({"data": "digits.jsonl", "adapter": "nothing"}, "cannot be read"),
    ],
)
def test_where_the_data_is_not_here_there_are_none(recipe, reason, tmp_path):
    for shows_images in (True, False):
        examples = examples_of(trained_on(tmp_path / "run", recipe), shows_images=shows_images)
        assert examples.found == () and reason in examples.note and "--examples FILE" in examples.note
        assert "\n" not in examples.note


def test_only_a_run_on_this_machine_says_what_its_data_is(colours, tmp_path):
    """The recipe of a checkpoint that was downloaded names files of another machine."""
    checkpoint = trained_on(tmp_path / "run", {"data": colours})
    moved = shutil.copytree(checkpoint, tmp_path / "downloads" / "checkpoint")
    examples = examples_of(moved, shows_images=True)
    assert examples.found == () and "the output folder of the training run was not found" in examples.note


def test_only_a_model_of_the_digits_shows_digits(checkpoint, published, tmp_path):
    space = plan_space(str(checkpoint))
    assert [name for name in space.files if name.endswith(".png")] == [f"examples/{n}-1.png" for n in (1, 2, 3)]
    assert "Handwritten Digits" in space.files["README.md"].decode()
    (checkpoint / "recipe.yaml").unlink()
    space = plan_space(str(checkpoint))
    assert space.settings["examples"] == [] and not any(name.startswith("examples/") for name in space.files)
    assert "Handwritten Digits" not in space.files["README.md"].decode()


def test_a_file_gives_them_to_the_page_and_the_space(checkpoint, tmp_path, capsys):
    for name in ("red", "blue"):
        Image.new("RGB", (20, 20), name).save(tmp_path / f"{name}.png")
    rows = [{"prompt": "Both?", "images": ["red.png", "blue.png"]}, {"prompt": "Nothing?"}]
    file = write_rows(tmp_path / "examples.jsonl", rows)
    assert main(["publish", str(checkpoint), "--examples", file, "--space-output", str(tmp_path / "space")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"examples: {file}" in shown and "every visitor of the Space sees the examples" in shown
    settings = json.loads((tmp_path / "space" / "space.json").read_text())
    expected = [{"text": "Both?", "images": ["examples/1-1.png", "examples/1-2.png"]}, {"text": "Nothing?"}]
    assert settings["examples"] == expected
    assert Image.open(tmp_path / "space" / "examples" / "1-2.png").getpixel((0, 0)) == (0, 0, 255)
    assert plan_space(str(checkpoint), examples="none").settings["examples"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file of prompts not found"),
        ('{"prompt": "What?", "image": "gone.png"}\n', "gone.png does not exist"),
        ('{"text": "What?"}\n', '"prompt" is missing'),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["publish", "--space"]])
def test_a_file_that_cannot_be_read_is_said(command, content, message, checkpoint, tmp_path, capsys):
    if content is not None:
        (tmp_path / "examples.jsonl").write_text(content)
    name, *options = command
    assert main([name, str(checkpoint), *options, "--examples", str(tmp_path / "examples.jsonl")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_images_for_a_language_model_are_refused(tmp_path, capsys):
    folder = save_text_checkpoint(tmp_path / "talker", chat_template=CHAT_TEMPLATE)
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    file = write_rows(tmp_path / "examples.jsonl", [{"prompt": "What?", "image": "black.png"}])
    assert main(["publish", str(folder), "me/x", "--space", "--examples", file]) == 1
    assert "no image encoder" in capsys.readouterr().err
    (tmp_path / "examples.txt").write_text("Tell me.\n")
    space = plan_space(str(folder), examples=str(tmp_path / "examples.txt"))
    assert space.settings["examples"] == [{"text": "Tell me."}]


def test_they_belong_to_a_space(checkpoint, capsys):
    assert main(["publish", str(checkpoint), "me/digits", "--examples", "none"]) == 1
    assert "add --space" in capsys.readouterr().err


def test_the_card_has_the_name_of_the_run(checkpoint):
    """`runs/mine/checkpoint` is the model `mine`."""
    processor = build_processor(longest_edge=32)
    run = checkpoint.parent
    publish_checkpoint(run / "checkpoint", build_model(processor), processor)
    card = (run / "checkpoint" / "README.md").read_text()
    assert f"\n# {run.name}\n" in card and f'checkpoint = "{run.name}"' in card
    publish_checkpoint(run / "checkpoint", build_model(processor), processor, recipe={"run_name": "my run"})
    assert "\n# my run\n" in (run / "checkpoint" / "README.md").read_text()
