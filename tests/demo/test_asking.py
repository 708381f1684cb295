"""The prompts of the demo: token for token and pixel for pixel those of training."""

import pytest
import torch
from helpers import build_processor

from smol_hf.data.digits import build_clips, build_pages, single_frame
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.demo.asking import prompt_of, shown_part
from smol_hf.demo.isolated_load import messages_of


def asked_and_trained(processor, asked):
    """The encoded prompt of a question, and the sample of training that has this question."""
    prompt = processor.apply_chat_template(
        messages_of(prompt_of(asked, shown_part(asked))),
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    work = SampleWork(processor, 4096, [None])
    return prompt, work.encode(0, work.prepare(0, "", asked.conversation))


@pytest.mark.parametrize(
    "asked, longest_edge, tiles",
    [
        (build_pages(2, seed=0, split="test", page_size=64), 64, 5),  # as in the recipe: a grid and an overview
        (build_clips(4, seed=0, split="test"), 32, 5),  # a tile for each frame
    ],
    ids=["pages", "clips"],
)
def test_prompts_equal_those_of_training(asked, longest_edge, tiles):
    processor = build_processor(longest_edge=longest_edge)
    for each in asked:
        prompt, sample = asked_and_trained(processor, each)
        assert len(sample.tiles) == tiles
        ids = prompt["input_ids"][0].tolist()
        assert sample.input_ids.tolist()[: len(ids)] == ids
        assert sample.labels[len(ids)] != -100 and all(sample.labels[: len(ids)] == -100)
        assert torch.equal(prompt["pixel_values"][0], sample.tiles)


def test_a_clip_has_a_tile_for_each_frame_and_the_time_before_it():
    [clip] = build_clips(1, seed=0, split="test")
    prompt = prompt_of(clip, clip.video)
    assert [part["type"] for part in prompt] == ["text", "image"] * 5 + ["text", "text"]
    texts = [part["text"] for part in prompt if part["type"] == "text"]
    assert texts[0] == (
        "You are provided the following series of five frames from a 0:00:05 [H:MM:SS] video.\n\nFrame from 00:00:"
    )
    assert texts[1:] == [*(f"\nFrame from 00:0{second}:" for second in range(1, 5)), "\n\n", clip.question]


def test_without_the_frames_only_the_question_is_left_and_a_single_frame_repeats():
    [clip] = build_clips(1, seed=0, split="test")
    assert prompt_of(clip, None) == [{"type": "text", "text": clip.question}]
    images = [part["image"] for part in prompt_of(clip, shown_part(single_frame(clip))) if part["type"] == "image"]
    assert len(images) == 5 and len(set(images)) == 1
