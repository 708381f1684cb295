"""The clips of moving digits: what they show, what they ask, and what a single frame or no frame tells."""

from __future__ import annotations

import io
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from smol_hf.data.conversation import TextPart, VideoPart
from smol_hf.data.digits import (
    CLIP_KINDS,
    build_clips,
    build_stories,
    evaluation_clips,
    evaluation_questions,
    load_digits,
    single_frame,
)

FRAMES = 5
EXPECTED = [("digit", "8"), ("direction", "left"), ("order", "0"), ("count", "1")]
EXPECTED += [("direction", "left"), ("order", "1"), ("count", "2"), ("digit", "4")]
STORY = """You are provided the following series of five frames from a 0:00:05 [H:MM:SS] video.

Frame from 00:00: 7 middle left
Frame from 00:01: 7 middle left
Frame from 00:02: 7 middle left and 0 middle right
Frame from 00:03: 0 middle right
Frame from 00:04: 0 middle right

"""


@pytest.fixture(scope="module")
def clips():
    return list(build_clips(2000, seed=0, split="train", page_size=32, turns=2))


def pixels(png) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG" and image.mode == "RGB"
    return np.asarray(image)


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def right_answer(clip, turn):
    """The answer, from the boxes of the digits only."""
    seen = [[frame for frame, box in enumerate(digit.boxes) if box] for digit in clip.digits]
    in_order = [digit.label for _, digit in sorted(zip(seen, clip.digits), key=lambda each: each[0][0])]
    if turn.kind == "count":
        return str(len(clip.digits))
    if turn.kind == "sequence":
        return " ".join(map(str, in_order))
    if turn.kind == "order":
        return str(in_order[0 if "first" in turn.question else -1])
    [digit] = clip.digits
    if turn.kind == "digit":
        return str(digit.label)
    (x, y), (last_x, last_y) = centre(digit.boxes[seen[0][0]]), centre(digit.boxes[seen[0][-1]])
    across, down = last_x - x, last_y - y
    return ("right" if across > 0 else "left") if abs(across) > abs(down) else "down" if down > 0 else "up"


def test_same_seed_same_clips_whatever_their_number():
    clips = list(build_clips(8, seed=5, split="train", turns=2))
    assert list(build_clips(3, seed=5, split="train", turns=2)) == clips[:3]
    assert list(build_clips(2, seed=5, split="train", turns=2, first=6)) == clips[6:]
    for other in ({"seed": 6, "split": "train"}, {"seed": 5, "split": "test"}):
        assert not {each.video for each in build_clips(8, turns=2, **other)} & {each.video for each in clips}


def test_the_clips_of_a_seed_stay_what_they_are():
    answers = [(clip.kind, clip.answer) for clip in evaluation_clips(8, seed=0)]
    assert answers == EXPECTED


def test_held_out_digits_are_never_in_a_clip_for_training(clips):
    train, test = (set(load_digits(split).index.tolist()) for split in ("train", "test"))
    assert {digit.index for clip in clips for digit in clip.digits} <= train
    used = {digit.index for clip in evaluation_clips(600, seed=1) for digit in clip.digits}
    assert used <= test and len(used) > 200


def test_answers_follow_from_the_boxes(clips):
    labels = dict(zip(load_digits("train").index.tolist(), load_digits("train").label.tolist()))
    for clip in clips:
        assert [labels[digit.index] for digit in clip.digits] == [digit.label for digit in clip.digits]
        for turn in clip.turns:
            assert turn.answer == right_answer(clip, turn), clip.conversation.sample_id


@pytest.mark.parametrize("page_size", [24, 32, 64])
def test_the_ink_of_each_frame_is_in_the_boxes(page_size):
    for clip in build_clips(100, seed=2, split="train", page_size=page_size):
        assert clip.video.times == (0, 1, 2, 3, 4) and len(clip.video.frames) == FRAMES
        for frame, png in enumerate(clip.video.frames):
            page = pixels(png)
            assert page.shape == (page_size, page_size, 3)
            ink = (page != page[0, 0]).any(axis=2)
            boxes = [digit.boxes[frame] for digit in clip.digits if digit.boxes[frame]]
            for left, top, right, bottom in boxes:
                assert 1 <= left < right <= page_size - 1 and 1 <= top < bottom <= page_size - 1
                assert ink[top:bottom, left:right].any()
                ink[top:bottom, left:right] = False
            assert not ink.any()
        for digit in clip.digits:
            assert any(digit.boxes) and len(digit.boxes) == FRAMES


def test_kinds_and_answers_are_balanced(clips):
    assert Counter(clip.kind for clip in clips) == dict.fromkeys(CLIP_KINDS, 500)
    numbers = Counter(clip.answer for clip in evaluation_clips(60, seed=1) if clip.kind == "count")
    assert numbers == {"1": 5, "2": 5, "3": 5}
    answers, hits = defaultdict(Counter), defaultdict(list)
    for clip in clips:
        answers[clip.question][clip.answer] += 1
    for clip in clips:
        hits[clip.kind].append(answers[clip.question].most_common(1)[0][1] / answers[clip.question].total())
    promised = {"digit": 1 / 10, "direction": 1 / 4, "order": 1 / 10, "count": 1 / 3}
    for kind, rate in promised.items():
        assert rate <= np.mean(hits[kind]) <= rate + 0.05, kind


def test_the_middle_frame_tells_neither_direction_nor_order(clips):
    """Both digits of an order are in it, equally often left and right; and a path is as often on either side."""
    first_is_left, offsets = [], defaultdict(list)
    for clip in clips:
        boxes = [digit.boxes[FRAMES // 2] for digit in clip.digits]
        if clip.kind == "order":
            assert all(boxes)
            first_is_left.append(boxes[0][0] < boxes[1][0])
        if clip.kind == "count":
            assert sum(map(bool, boxes)) == 1
        if clip.kind == "direction":
            offsets[clip.answer].append(centre(boxes[0]))
    assert 0.44 < np.mean(first_is_left) < 0.56
    means = {answer: np.mean(places, axis=0) for answer, places in offsets.items()}
    assert set(means) == {"left", "right", "up", "down"}
    for mean in means.values():
        assert np.allclose(mean, 16, atol=0.8)


def test_a_single_frame_replaces_all():
    clip = evaluation_clips(1, seed=0)[0]
    still = single_frame(clip)
    assert still.video.frames == (clip.video.frames[2],) * FRAMES and still.video.times == clip.video.times
    assert (still.question, still.answer) == (clip.question, clip.answer)


def test_a_story_is_the_clip_in_words():
    [clip] = build_clips(1, seed=0, split="train", turns=2, first=2)
    [story] = build_stories(1, seed=0, split="train", turns=2, first=2)
    shown, question = story.messages[0].parts
    assert isinstance(clip.conversation.messages[0].parts[0], VideoPart) and isinstance(shown, TextPart)
    assert question == clip.conversation.messages[0].parts[1] and story.messages[1:] == clip.conversation.messages[1:]
    assert shown.text == STORY
    [page] = evaluation_questions(1, seed=0)
    assert page.story.messages[0].parts[0] == TextPart(" 8 middle centre\n")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"split": "all"}, "unknown split"),
        ({"page_size": 8}, "page_size"),
        ({"turns": 0}, "turns"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        build_clips(1, **{"seed": 0, "split": "train", **options})
