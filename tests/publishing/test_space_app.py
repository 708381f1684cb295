"""The work of a Space's app, without its page. It needs no smol_hf."""

import functools
import importlib.util
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from inference.text_checkpoints import CHAT_TEMPLATE, STORY, save_text_checkpoint
from publishing.space_models import ANSWER, APP, MODULES, QUESTION, red_page, save_picture_checkpoint, text, turn
from safetensors.torch import load_file, save_file
from video_clips import clip, even_times

from smol_hf.inference.answering import chat_ids, load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling as Options


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

    @functools.wraps(forward)
    def slow(*given, **named):
        made.append(1)
        time.sleep(0.02)
        return forward(*given, **named)

    writer.model.forward = slow
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


def test_a_video_is_shown_to_the_model(app, pictures, tmp_path):
    (tmp_path / "clip.MP4").write_bytes(clip(even_times(30, 10)))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.MP4").read_bytes()[:400])
    messages_of, sampling = app["conversation"].messages_of, app["writer"].Sampling(max_new_tokens=4)
    writer = app["checkpoint"].load(str(pictures))
    assert writer.sees_videos
    messages = messages_of([], "What happens?", [str(tmp_path / "clip.MP4")])
    assert [part["type"] for part in messages[0]["content"]] == ["video", "text"]
    *_, answer = writer.answer(messages, sampling)
    ours = Generator(*load_checkpoint(pictures), Options(max_new_tokens=4))
    (expected,) = ours.answers([Prompt("What happens?", videos=(str(tmp_path / "clip.MP4"),))])
    assert answer == expected.text
    with pytest.raises(app["writer"].Problem, match=r"^the video cut\.mp4 cannot be used: it is damaged"):
        writer.answer(messages_of([], "What?", [str(tmp_path / "cut.mp4")]), sampling)
    writer.processor = SimpleNamespace(tokenizer=writer.tokenizer)
    with pytest.raises(app["writer"].Problem, match="takes no videos"):
        writer.answer(messages, sampling)


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
