"""Chat: streamed answers equal `generate`'s, several turns and pictures, sampling that repeats."""

import pytest
import torch
from helpers import build_model, build_processor
from PIL import Image

from smol_hf.data.conversation import SampleError
from smol_hf.inference.answering import answer, load_checkpoint
from smol_hf.inference.chat import Chat
from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    processor = build_processor()
    model = build_model(processor).eval()
    with torch.no_grad():  # small initial weights would repeat one token whatever they read
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model, processor


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
    (expected,) = answer(model, processor, [messages], max_new_tokens=8)
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
