"""A Space for a checkpoint: its files, where they go, and the app's own work, which needs no smol_hf."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard, constants
from inference.text_checkpoints import CHAT_TEMPLATE, STORY, save_text_checkpoint
from PIL import Image
from publishing.space_models import ANSWER, QUESTION, red_page, save_picture_checkpoint, text, turn
from safetensors.torch import load_file, save_file

from smol_hf.commands.main import main
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling as Options
from smol_hf.inference.text_prompts import chat_ids
from smol_hf.publishing.space.space import GRADIO, plan_space
from smol_hf.support.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
APP = resource_path("hub_templates", "space")
MODULES = sorted(path.stem for path in APP.glob("*.py"))


def publish(*arguments):
    return main(["publish", *map(str, arguments)])


# -- the Space --------------------------------------------------------------------------------------------------------


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


# -- what the app does, without its page ------------------------------------------------------------------------------


@pytest.fixture
def app(monkeypatch):
    """The app's modules, by name."""
    monkeypatch.syspath_prepend(APP)
    modules = {name: importlib.import_module(name) for name in MODULES if name != "app"}
    yield modules
    for name in modules:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_picture_checkpoint(tmp_path_factory.mktemp("pictures") / "checkpoint")


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return save_text_checkpoint(tmp_path_factory.mktemp("talker"), chat_template=CHAT_TEMPLATE)


PROGRAM = """
import sys
sys.modules["smol_hf"] = None
sys.path.insert(0, sys.argv[1])
from checkpoint import load
from PIL import Image
from writer import Sampling
writer = load(sys.argv[2])
parts = [{"type": "image", "image": Image.open(sys.argv[3])}, {"type": "text", "text": sys.argv[4]}]
*_, answer = writer.answer([{"role": "user", "content": parts}], Sampling())
print(writer.warning or answer)
"""


def test_it_answers_where_smol_hf_is_not(pictures, tmp_path):
    red_page().save(tmp_path / "page.png")
    command = [sys.executable, "-c", PROGRAM, str(APP), str(pictures), str(tmp_path / "page.png"), QUESTION]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ANSWER


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_it_writes_what_our_own_commands_write(app, pictures, talker, tmp_path, temperature):
    story = save_text_checkpoint(tmp_path / "base")
    chosen = {"temperature": temperature, "top_k": 30, "top_p": 0.9} if temperature else {}
    for folder, prompt in ((talker, "Hi <|im_end|>!"), (story, "Once <|endoftext|>"), (pictures, "Why <image>?")):
        ours = Generator(*load_checkpoint(folder), Options(**chosen, max_new_tokens=24, seed=5))
        (expected,) = ours.answers([Prompt(prompt)])
        writer = app["checkpoint"].load(str(folder))
        sampling = app["writer"].Sampling(**chosen, max_new_tokens=24, seed=5)
        pieces = writer.answer([turn(prompt)], sampling) if writer.chats else writer.continue_text(prompt, sampling)
        assert list(pieces)[-1] == expected.text


def test_texts_never_become_special_tokens(app, talker):
    writer = app["checkpoint"].load(str(talker))
    messages = [turn("a <|im_end|>\n<|im_start|> b  c "), {"role": "assistant", "content": [text("<image> ")]}, turn()]
    assert writer.chat_ids(messages) == chat_ids(writer.tokenizer, messages)


def test_missing_weights_are_never_silent(app, pictures, tmp_path):
    load = app["checkpoint"].load
    assert load(str(pictures)).warning == ""
    folder = shutil.copytree(pictures, tmp_path / "some")
    tensors = load_file(folder / "model.safetensors")
    missing = sorted(name for name in tensors if name.startswith("connector."))
    save_file(
        {name: tensors[name] for name in tensors.keys() - missing}, folder / "model.safetensors", {"format": "pt"}
    )
    warning = load(str(folder)).warning
    assert warning.startswith(f"Random weights: {len(missing)} of") and missing[0].split(".", 1)[1] in warning
    save_file(
        {**tensors, missing[0]: tensors[missing[0]] * float("nan")}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(app["writer"].Problem, match=r"holds NaN or infinity in 1 weights, first connector\."):
        load(str(folder))
    (folder / "model.safetensors").unlink()
    writer = load(str(folder))
    assert writer.warning == app["checkpoint"].RANDOM
    assert "".join(writer.answer([turn()], app["writer"].Sampling(max_new_tokens=8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "merge it with its base"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.safetensors.index.json"), "loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_a_line(app, pictures, tmp_path, change, message):
    folder = shutil.copytree(pictures, tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(app["writer"].Problem, match=message) as raised:
        app["checkpoint"].load(str(folder))
    assert "\n" not in str(raised.value)


def test_what_is_too_long_is_said(app, talker):
    writer = app["checkpoint"].load(str(talker))
    with pytest.raises(app["writer"].Problem, match=r"too long: .* tokens, and the model supports 128"):
        list(writer.answer([turn("word " * 100)], app["writer"].Sampling()))


def test_who_stops_listening_stops_the_model(app, tmp_path):
    writer = app["checkpoint"].load(str(save_text_checkpoint(tmp_path, steps=100)))
    made = []
    forward = writer.model.forward
    writer.model.forward = lambda *given, **named: (made.append(1), time.sleep(0.02), forward(*given, **named))[-1]
    pieces = writer.continue_text(STORY[:4], app["writer"].Sampling())
    next(pieces)
    pieces.close()
    with writer.lock:  # the work is over
        assert len(made) < 20


def test_a_conversation_is_read_back(app, tmp_path):
    """As Gradio keeps it; what got no answer, the pictures of it too, is no part of it."""
    conversation = app["conversation"]
    red_page().save(tmp_path / "page.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "page.png").read_bytes()[:60])
    (tmp_path / "notes.png").write_text("no picture")

    def file(name):
        return {"type": "file", "file": {"path": str(tmp_path / name)}}

    history = [
        {"role": "user", "content": [file("page.png"), text("What?")]},
        {"role": "assistant", "content": [text("A page.")]},
        {"role": "user", "content": [file("broken.png"), text("And this?")]},
        {"role": "assistant", "content": [text("It is damaged")], "metadata": {"title": conversation.NOTE}},
    ]
    messages = conversation.messages_of(history, "Sure?", [])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
    assert messages[2]["content"] == [text("Sure?")]
    for given, problem in (("broken", "damaged or cut off"), ("notes", "not an image")):
        with pytest.raises(app["writer"].Problem, match=f"{given}.png is {problem}"):
            conversation.messages_of([], "What?", [str(tmp_path / f"{given}.png")])
    with pytest.raises(app["writer"].Problem, match="Write something"):
        conversation.messages_of([], "  ", [])


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a < b && c > d", "a < b && c > d"),
        ("<image> </b>", "&lt;image> &lt;/b>"),
        ("&lt; &amp;lt; &<b", "&amp;lt; &amp;amp;lt; &&lt;b"),
        ("`<i>` and\n```html\n<p>&nbsp;", "`<i>` and\n```html\n<p>&nbsp;"),
    ],
)
def test_texts_are_shown_as_they_were_written(app, written, shown):
    assert app["literal"].escaped(written) == shown
    assert app["literal"].unescaped(shown) == written
