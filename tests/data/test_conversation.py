"""Conversations: their parts, and what training does with media that it cannot use."""

import json

import pytest
from helpers import build_processor, ready
from image_corpus import encoded, half_and_half

from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart, VideoPart
from smol_hf.data.media.images import open_encoded
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan
from smol_hf.training.data import measure_data, open_data
from smol_hf.training.recipe.data_arguments import DataArguments

ANSWER = Message("assistant", (TextPart("Yes."),))
PARTS = (
    VideoPart(path="v.mp4", start=1.5, end=3.0),
    TextPart("<image> <video> \u2028"),
    ImagePart(path="b.png"),
    VideoPart(content=b"mp4"),
    ImagePart(path="a.png"),
    ImagePart(content=b"png"),
)
FULL = Conversation("rows:1", (Message("user", PARTS), ANSWER), "docvqa", ({"relevance": 3},))


def test_the_media_of_a_conversation_stand_in_reading_order():
    assert FULL.images == [PARTS[2], PARTS[4], PARTS[5]]
    assert FULL.videos == [PARTS[0], PARTS[3]]


@pytest.mark.parametrize("given", [{}, {"content": b"", "path": "a"}])
def test_an_image_is_one_thing(given):
    with pytest.raises(ValueError, match="either encoded bytes"):
        open_encoded(ImagePart(**given))


@pytest.mark.parametrize("given", [{}, {"content": b"", "path": "a"}, {"start": 1.0}])
def test_a_video_is_one_thing(given):
    with pytest.raises(ValueError, match="either encoded bytes"):
        VideoPart(**given)


def test_the_modality_of_a_sample_is_its_number_of_images():
    image = ImagePart(content=encoded(half_and_half(), "PNG"))
    samples = [Conversation("x", (Message("user", (TextPart("Hi"), *[image] * n)), ANSWER)) for n in range(4)]
    assert [each.modality for each in ready(samples, build_processor())] == ["text", "image", *["multiimage"] * 2]


def test_a_missing_video_is_named(tmp_path):
    text = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    video = {"video": "v.mp4", "conversations": [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "x"}]}
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (text, video)))

    arguments = DataArguments(data=str(path), context_length=99)
    data = open_data(arguments, seed=0)
    plan = Plan(data.sources, [1.0], SampleWork(build_processor(), 99, data.readers), 99)
    problem = r"mine\.jsonl:2: the video .*v\.mp4 cannot be used: it does not exist"
    with pytest.raises(SampleError, match=problem):
        measure_data(plan, data, arguments, SkippedSamples("stop"))
    skipped = SkippedSamples("skip", max_fraction=0.5)
    measure_data(plan, data, arguments, skipped)
    assert [fault.where for fault in skipped.faults] == ["mine.jsonl:2"]
