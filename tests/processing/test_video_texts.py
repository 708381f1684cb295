"""The text around frames: that of transformers' SmolVLMProcessor, and that of the code that trained SmolVLM2."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from modeling.builders import build_processor
from processing.chats import message, picture
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.video_utils import VideoMetadata

from smol_hf.processing.chat_format import FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, IMAGE_TOKEN, ChatTemplateError
from smol_hf.processing.video_sampling import FrameTimes
from smol_hf.processing.video_text import in_words

TABLE = json.loads(Path(__file__).with_name("video_texts.json").read_text(encoding="utf-8"))
SIZE = (48, 64)  # of an image that is split
UNSPLIT = FAKE_IMAGE_TOKEN + GLOBAL_IMAGE_TOKEN + IMAGE_TOKEN * 4 + FAKE_IMAGE_TOKEN


def test_numbers_are_written_as_num2words_writes_them():
    assert [in_words(number) for number in range(121)] == TABLE["words"] and in_words(999) == TABLE["999"]


# -- transformers -----------------------------------------------------------------------------------------------------


def clip(number, fps=24.0, step=30, duration=None):
    """Metadata of `number` frames of a clip, every `step`-th."""
    indices = [index * step for index in range(number)]
    return VideoMetadata(indices[-1] + 1, fps=fps, duration=duration, frames_indices=indices)


def transformers_ids(processor, messages, media, monkeypatch, **options):
    """Tokens by the methods of transformers' class, which is never built, since it needs other packages."""
    monkeypatch.setattr(processing_smolvlm, "num2words", in_words)
    theirs = SimpleNamespace(
        image_seq_len=processor.image_seq_len,
        image_token=IMAGE_TOKEN,
        fake_image_token=FAKE_IMAGE_TOKEN,
        global_image_token=GLOBAL_IMAGE_TOKEN,
    )
    text = processor.tokenizer.apply_chat_template(
        messages, chat_template=processing_smolvlm.DEFAULT_CHAT_TEMPLATE, tokenize=False, **options
    )
    parts = [part for message in messages for part in message["content"]]
    marks = [f"<{part['type']}>" for part in parts if part["type"] != "text"]
    head, rest = "", text
    for mark, each in zip(marks, media, strict=True):
        before, rest = rest.split(mark, 1)
        if mark == "<video>":
            frames = torch.zeros(1, len(each.frames_indices), 3, 1, 1)
            block = SmolVLMProcessor.replace_video_token(theirs, {"pixel_values": frames, "video_metadata": [each]}, 0)
        else:
            rows, columns = processor.tiler.grid(*each)
            block = SmolVLMProcessor.replace_image_token(theirs, {"rows": [[rows]], "cols": [[columns]]}, 0)
        head += before + block
    return processor.tokenizer(head + rest, add_special_tokens=False)["input_ids"]


VIDEO, IMAGE = {"type": "video"}, {"type": "image"}
CHATS = {
    "a question": (message("user", VIDEO, "What happens?"), 1),
    "a text before": (message("user", "Look at this:\n", VIDEO, "\nWhat?"), 1),
    "no text": (message("user", VIDEO), 1),
    "several videos": (message("user", VIDEO, "and then", VIDEO, VIDEO, "Which?"), 3),
    "images and videos": (message("user", IMAGE, VIDEO, IMAGE, "Which?", VIDEO), 2),
}


@pytest.mark.parametrize("frames", [1, 2, 21, 64])
@pytest.mark.parametrize("name", CHATS)
def test_tokens_are_those_of_transformers(processor, monkeypatch, name, frames):
    asked, videos = CHATS[name]
    clips = iter(
        [clip(frames, step=30 + 41 * number, duration=[None, 75.9, 3700.2][number]) for number in range(videos)]
    )
    kinds = [part["type"] for part in asked["content"] if part["type"] != "text"]
    media = [next(clips) if kind == "video" else SIZE for kind in kinds]
    answer = message("assistant", "A dog runs.")
    for messages, prompt in (
        ([asked], True),
        ([asked, answer], False),
        ([asked, answer, message("user", "Why?")], True),
    ):
        expected = transformers_ids(processor, messages, media, monkeypatch, add_generation_prompt=prompt)
        pixels = [[picture(40, 64)] * frames, [picture(48, 64)]]
        given = [pixels[0] if kind == "video" else pixels[1][0] for kind in kinds]
        shown = iter([{"type": kind, kind: value} for kind, value in zip(kinds, given)])
        parts = [part if part["type"] == "text" else next(shown) for part in asked["content"]]
        called = [{"role": "user", "content": parts}, *messages[1:]]
        metadata = [each for each in media if each is not SIZE]
        options = {"add_generation_prompt": prompt}
        ids = processor.apply_chat_template(called, tokenize=True, video_metadata=metadata, **options)
        assert ids == expected
        times = [each if each is SIZE else FrameTimes(tuple(each.timestamps), duration(each)) for each in media]
        assert processor.encode_text(messages, times, **options)[0] == expected, "as in training"
        text = processor.apply_chat_template(called, **options)
        assert text.count("<video>") == videos
        groups = [[value for kind, value in zip(kinds, given) if kind == each] for each in ("image", "video")]
        batch = processor(text=text, images=groups[0], videos=groups[1], video_metadata=metadata)
        assert batch["input_ids"][0] == expected


def duration(metadata):
    return metadata.timestamps[-1] if metadata.duration is None else metadata.duration


# -- the code that trained SmolVLM2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["case"])
def test_the_training_style_writes_what_the_published_code_wrote(case):
    processor = build_processor(video_style="smolvlm2_training", do_image_splitting=False)
    media = [SIZE if each == "image" else FrameTimes(tuple(each["times"]), each["duration"]) for each in case["media"]]
    ids, labels = processor.encode_text(case["messages"], media)
    text = processor.tokenizer.decode(ids).replace(UNSPLIT, IMAGE_TOKEN)
    assert text == case["text"]
    answers = [each["content"][0]["text"] for each in case["messages"] if each["role"] == "assistant"]
    trained = processor.tokenizer.decode([label for label in labels if label >= 0])
    assert trained == "".join(f" {answer}<end_of_utterance>" for answer in answers), "not the texts of the style"


def test_the_training_style_is_the_same_in_a_call():
    processor = build_processor(video_style="smolvlm2_training")
    parts = [{"type": "image", "image": picture()}, {"type": "video", "video": [picture()] * 3}]
    messages = [message("user", *parts, "What?"), message("assistant", "A dog."), message("user", "Why?")]
    ids = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text.count("Here are some images: <image>") == text.count("<video>Now answer the following question: ") == 1
    assert processor(text=text, images=picture(), videos=[picture()] * 3)["input_ids"][0] == ids


# -- training and inference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["smolvlm", "smolvlm2_training"])
def test_a_prompt_is_the_beginning_of_what_is_trained(style):
    processor = build_processor(video_style=style)
    asked = message("user", VIDEO, "What happens?", IMAGE)
    times = FrameTimes((0.0, 1.25, 2.5), 3.75)
    [(trained, labels, shown)] = processor.encode_turns([asked, message("assistant", "A dog runs.")], [times, SIZE])
    assert shown == 4
    given = iter([([picture()] * 3, times), picture(48, 64)])
    parts = [part if part["type"] == "text" else {**part, part["type"]: next(given)} for part in asked["content"]]
    called = [{"role": "user", "content": parts}]
    prompt = processor.apply_chat_template(called, tokenize=True, add_generation_prompt=True)
    begin = next(index for index, label in enumerate(labels) if label >= 0)
    assert prompt == trained[:begin]


def test_a_users_text_never_becomes_a_video(processor):
    messages = [message("user", "What does <video> do in HTML?")]
    ids = processor.apply_chat_template(messages, tokenize=True)
    assert processor.tokenizer.decode(ids) == processor.apply_chat_template(messages)
    assert processor(text=processor.apply_chat_template(messages))["input_ids"][0] == ids
    with pytest.raises(ValueError, match="the text shows 2 videos, but 1 were given"):
        processor(text="<video> and <video>", videos=[picture()])


def test_other_templates_write_videos_too_or_say_so():
    template = "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
    template += "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>{% endfor %}"
    processor = build_processor(chat_template=template)
    messages = [message("user", {"type": "video", "video": [picture()] * 2}, "What?")]
    ids = processor.apply_chat_template(messages, tokenize=True)
    assert processor.tokenizer.decode(ids).startswith(
        "You are provided the following series of two frames from a 0:00"
    )
    with pytest.raises(ChatTemplateError, match="does not write <video>"):
        processor.apply_chat_template(messages)


def test_an_unknown_style_is_an_error():
    with pytest.raises(ValueError, match="video_style 'qwen': choose one of smolvlm, smolvlm2_training"):
        build_processor(video_style="qwen")
