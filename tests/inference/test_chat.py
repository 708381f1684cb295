"""Chat: streamed answers equal `generate`'s, several turns and pictures, sampling that repeats, commands."""

import io

import pytest
import torch
from PIL import Image

from smol_hf.commands.main import main
from smol_hf.data.conversation import SampleError
from smol_hf.inference.answering import load_checkpoint, prompt_inputs
from smol_hf.inference.chat import Chat
from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (50, 40), (200, 30, 30)).save(path)
    return path


def say(loaded, text, images=(), **sampling):
    return "".join(Chat(*loaded, images, **{"max_new_tokens": 8, **sampling}).say(text))


def test_a_language_model_alone_is_not_asked_about_pictures(loaded, tmp_path, picture):
    model, processor = loaded
    model.language_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_checkpoint(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a language model without an image encoder"):
        Chat(*load_checkpoint(tmp_path, device="cpu"), [picture])


def test_a_streamed_answer_is_the_one_of_generate(loaded, picture):
    model, processor = loaded
    messages = [{"role": "user", "content": [
        {"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "What is this?"}
    ]}]  # fmt: skip
    inputs = prompt_inputs(processor, [messages], model.device)
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = processor.decode(tokens, skip_special_tokens=True).strip()
    assert say(loaded, "What is this?", [picture]).strip() == expected
    assert say(loaded, "What is this?") != expected, "the picture matters"


def test_turns_build_on_each_other_and_show_the_picture_once(loaded, picture):
    chat = Chat(*loaded, [picture], max_new_tokens=4)
    first = "".join(chat.say("What is this?"))
    "".join(chat.say("And now?"))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] == [{"type": "text", "text": first}]
    assert sum(part["type"] == "image" for message in chat.messages for part in message["content"]) == 1


def test_sampling_repeats_with_its_seed_and_top_1_is_greedy(loaded):
    hot = {"temperature": 5.0, "max_new_tokens": 16}
    assert say(loaded, "hi", seed=1, **hot) == say(loaded, "hi", seed=1, **hot)
    assert len({say(loaded, "hi", seed=seed, **hot) for seed in range(4)}) > 1
    assert say(loaded, "hi", temperature=5.0, top_k=1) == say(loaded, "hi")


def test_a_picture_that_cannot_be_read_is_named(loaded, tmp_path):
    with pytest.raises(SampleError, match=r"gone\.png does not exist"):
        Chat(*loaded, [tmp_path / "gone.png"])


def test_a_prompt_beyond_the_models_positions_is_refused(loaded):
    limit = loaded[0].config.text_config.max_position_embeddings
    with pytest.raises(SampleError, match=f"fill all {limit} positions"):
        say(loaded, "word " * limit)


def test_an_error_while_generating_is_not_lost_in_its_thread(loaded, monkeypatch):
    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loaded[0], "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        say(loaded, "hi")


def test_published_and_loaded_again_the_answers_are_the_same(loaded, tmp_path):
    model, processor = loaded
    folder = publish_checkpoint(tmp_path / "checkpoint", model, processor)
    again = load_checkpoint(folder, device="cpu")
    assert say(loaded, "What is this?") == say(again, "What is this?")
    assert not (tmp_path / ".checkpoint.incomplete").exists()


def test_a_broken_model_is_not_published_and_the_old_one_stays(loaded, tmp_path):
    model, processor = loaded
    folder = publish_checkpoint(tmp_path / "checkpoint", model, processor)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weight = model.connector.proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.inf
    try:
        with pytest.raises(ValueError, match="NaN or infinity"):
            publish_checkpoint(folder, model, processor)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# -- the commands of a chat in a terminal -----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    return publish_checkpoint(tmp_path_factory.mktemp("chat") / "checkpoint", *loaded)


def talk(folder, lines, monkeypatch, kind=Terminal):
    """Type the lines; the exit code."""
    monkeypatch.setattr("sys.stdin", kind("".join(f"{line}\n" for line in lines)))
    return main(["chat", str(folder), "--max-new-tokens", "8", "--device", "cpu"])


def answers_of(printed):
    """What was printed after each prompt of the terminal."""
    return [each.strip() for each in printed.split("> ")[1:-1]]


def test_an_image_is_shown_and_a_conversation_forgotten(loaded, folder, picture, monkeypatch, capsys):
    blind, seen = say(loaded, "What is this?").strip(), say(loaded, "What is this?", [picture]).strip()
    lines = ["What is this?", "/reset", f"/image {picture}", "What is this?", "/reset", "What is this?"]
    assert talk(folder, lines, monkeypatch) == 0
    printed = capsys.readouterr()
    assert [each for each in answers_of(printed.out) if each] == [blind, seen, blind]
    assert f"{picture} (50 × 40 pixels) is shown with the next question" in printed.err
    assert printed.err.count("a new conversation begins") == 2


def test_help_lists_the_commands(folder, monkeypatch, capsys):
    assert talk(folder, ["/help"], monkeypatch) == 0
    said = capsys.readouterr().err
    assert all(f"  {name} " in said for name in ("/image FILE", "/reset", "/help")) and "Ctrl-D" in said


def test_a_mistake_leaves_the_conversation_as_it_was(loaded, folder, picture, tmp_path, monkeypatch, capsys):
    too_long = "word " * loaded[0].config.text_config.max_position_embeddings
    (tmp_path / "my notes.txt").write_text("no image")
    lines = [f'/image "{picture}"', "/image gone.png", f"/image {tmp_path}/my notes.txt", "/images x", "/image",
             too_long, "What is this?"]  # fmt: skip
    assert talk(folder, lines, monkeypatch) == 0
    printed = capsys.readouterr()
    assert answers_of(printed.out)[-1] == say(loaded, "What is this?", [picture]).strip()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    expected = [
        "gone.png does not exist",
        "my notes.txt is not an image",
        "unknown command /images",
        "needs the path",
        "fill all",
    ]
    assert len(errors) == 5 and all(words in line for words, line in zip(expected, errors))


def test_a_mistake_in_lines_from_a_file_ends_the_chat(folder, monkeypatch, capsys):
    assert talk(folder, ["/image gone.png", "hi"], monkeypatch, io.StringIO) == 1
    assert "gone.png does not exist" in capsys.readouterr().err


def test_a_question_may_begin_with_a_slash(loaded):
    chat = Chat(*loaded, max_new_tokens=4)
    assert chat.obey("/usr/bin is what?") is None and chat.obey("What is /help?") is None


def test_an_answer_that_fails_leaves_the_conversation_as_it_was(loaded, picture, monkeypatch):
    chat = Chat(*loaded, [picture], max_new_tokens=4)

    def fail(**_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(loaded[0], "generate", fail)
        "".join(chat.say("What is this?"))
    assert chat.messages == [] and len(chat.waiting_images) == 1


# -- where and in which numbers it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_weights_have_the_dtype_that_is_asked_for(command, folder, monkeypatch, capsys):
    loads = []
    monkeypatch.setattr(
        "smol_hf.inference.answering.load_checkpoint",
        lambda *given, **named: loads.append(load_checkpoint(*given, **named)) or loads[-1],
    )
    for dtype, expected in (("bfloat16", torch.bfloat16), ("auto", torch.float32)):
        options = ["--prompt", "hi", "--max-new-tokens", "2", "--device", "cpu", "--dtype", dtype]
        assert main([command, str(folder), *options]) == 0
        model, _ = loads[-1]
        assert {weight.dtype for weight in model.parameters()} == {expected} and model.device.type == "cpu"


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_missing_is_said_in_a_line(command, device, folder, capsys):
    assert main([command, str(folder), "--prompt", "hi", "--device", device]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: the device '{device}' is not available") and error.count("\n") == 1
