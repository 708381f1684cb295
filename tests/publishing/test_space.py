"""A Space for a checkpoint: its files, and where they go."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard, constants
from inference.text_checkpoints import CHAT_TEMPLATE, save_text_checkpoint
from PIL import Image
from publishing.space_models import APP, MODULES

from smol_hf.commands.main import main
from smol_hf.publishing.space.space import GRADIO, plan_space

ROOT = Path(__file__).resolve().parents[2]


def publish(*arguments):
    return main(["publish", *map(str, arguments)])


def test_a_dry_run_lists_the_space_and_sends_nothing(hub, checkpoint, capsys):
    before = sorted(checkpoint.parent.rglob("*"))
    assert publish(checkpoint, "me/digits", "--space") == 0
    shown = capsys.readouterr().out
    assert hub.requests == [] and sorted(checkpoint.parent.rglob("*")) == before
    assert "me/digits → spaces/me/digits-space\n" in shown and "add --yes" in shown
    for name in ("README.md", "requirements.txt", "space.json", "examples/1-1.png", *(f"{m}.py" for m in MODULES)):
        assert re.search(rf"│ {name} +│ +[\d,]+ │", shown)
    assert "sdk: gradio" in shown and "- me/digits\n" in shown and "license: mit" in shown


def test_a_space_is_sent_to_the_hub_once(hub, checkpoint, capsys):
    hub.add("me/digits")
    assert publish(checkpoint, "me/digits", "--space", "--yes", "--message", "the page") == 0
    assert f"{hub.address}/spaces/me/digits-space, commit" in capsys.readouterr().out
    space = hub.repositories["me/digits-space"]
    assert space.sdk == "gradio" and not space.private and space.messages[-1] == "the page"
    expected = plan_space(str(checkpoint), "me/digits").files
    assert {name: content for name, content in space.tree("main").items() if name in expected} == expected
    assert json.loads(space.tree("main")["space.json"])["model_id"] == "me/digits"
    assert publish(checkpoint, "me/digits", "--space", "--yes") == 0
    assert "nothing to change" in capsys.readouterr().out


def test_a_space_may_have_another_name_and_run_a_branch_of_a_private_model(hub, checkpoint, capsys):
    model = hub.add("me/digits", private=True)
    model.branches["v1"] = model.branches["main"]
    assert publish(checkpoint, "me/digits", "--space-name", "me/page", "--branch", "v1", "--private", "--yes") == 0
    assert "a secret HF_TOKEN" in capsys.readouterr().out
    space = hub.repositories["me/page"]
    assert space.private and json.loads(space.tree("main")["space.json"])["revision"] == "v1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["me/digits", "--space", "--yes"], "me/digits is not on the Hub"),
        (["--space", "--yes"], "is a local folder: publish it first"),
        (["digits", "--space"], "OWNER/NAME"),
        (["me/digits", "--space", "--create-pr"], "--create-pr has no effect on a Space"),
        (["--space-name", "me/page"], "give OWNER/NAME"),
        ([], "OWNER/NAME is missing"),
    ],
)
def test_what_cannot_be_a_space_is_said_in_a_line(arguments, message, hub, checkpoint, capsys):
    assert publish(checkpoint, *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert hub.repositories == {}


def test_a_space_is_written_for_a_folder_here(checkpoint, tmp_path, capsys):
    """Its README is what the Hub runs a Space by."""
    assert publish(checkpoint, "--space-output", tmp_path / "space") == 0
    assert publish(checkpoint, "--space-output", tmp_path / "space") == 0, "written again"
    capsys.readouterr()
    card = SpaceCard.load(tmp_path / "space" / "README.md").data
    assert (card.sdk, card.sdk_version, card.app_file) == ("gradio", GRADIO, "app.py")
    assert card.title == "run" and card.models is None and card.license == "mit"
    assert card.emoji and card.colorFrom in COLOURS and card.colorTo in COLOURS and len(card.short_description) <= 60
    settings = json.loads((tmp_path / "space" / "space.json").read_text())
    assert settings["model_id"] == str(checkpoint)
    assert len(settings["examples"]) == 3
    for example in settings["examples"]:
        (name,) = example["images"]
        assert Image.open(tmp_path / "space" / name).size == (256, 256) and example["text"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    assert publish(checkpoint, "--space-output", tmp_path / "mine") == 1
    assert "other than a Space of smol_hf" in capsys.readouterr().err


COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def test_a_language_models_space_has_no_pictures(tmp_path):
    for template, kind in ((None, "continues"), (CHAT_TEMPLATE, "talk")):
        folder = save_text_checkpoint(tmp_path / kind, chat_template=template)
        space = plan_space(str(folder))
        assert kind in space.front_matter and not any(name.endswith(".png") for name in space.files)
        assert space.settings["examples"] == []  # nothing says what it was trained on


def test_a_model_on_the_hub_needs_no_folder_here(hub, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    places = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", places.replace("{endpoint}", hub.address))
    hub.add("me/digits", tree={path.name: path.read_bytes() for path in checkpoint.iterdir()})
    assert publish("me/digits", "--space", "--yes") == 0
    assert "me/digits-space" in capsys.readouterr().out
    assert not any(name.endswith(".safetensors") for _, name in hub.requests), "weights are not fetched"


def test_a_space_asks_for_what_the_package_asks_for():
    ranges = re.findall(r'^    "(\w+)([<>=][^"]*)",', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    for line in (APP / "requirements.txt").read_text().split():
        assert re.fullmatch(r"(\w+)([<>=].*)", line).groups() in ranges
    assert f"gradio=={GRADIO}\n" in (ROOT / "constraints.txt").read_text()


def test_the_app_imports_nothing_of_ours():
    allowed = {"torch", "transformers", "gradio", "PIL", "huggingface_hub", "safetensors", *sys.stdlib_module_names}
    for module in MODULES:
        for node in ast.walk(ast.parse((APP / f"{module}.py").read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed | set(MODULES)


def test_a_missing_gradio_is_said(checkpoint, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["demo", str(checkpoint)]) == 1
    assert 'pip install "smol_hf[demo]"' in capsys.readouterr().err
