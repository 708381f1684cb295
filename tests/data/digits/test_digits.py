"""The embedded digits: what is shipped, and the pages and questions that are made of it."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from smol_hf.data.conversation import ImagePart, TextPart
from smol_hf.data.digits import KINDS, build_pages, evaluation_questions, load_digits
from smol_hf.data.digits.drawing import draw_digit


@pytest.fixture(scope="module")
def many_pages():
    return list(build_pages(20_000, seed=0, split="train", page_size=24))


def picture(page) -> np.ndarray:
    image = Image.open(io.BytesIO(page.conversation.images[0].content))
    assert image.format == "PNG" and image.mode == "RGB"
    return np.asarray(image)


def right_answer(turn, labels) -> str:
    if turn.kind == "count":
        return str(len(labels))
    if turn.kind == "larger":
        return f"{labels[0]} and {labels[1]}: {max(labels)}"
    if turn.kind == "side":
        return str(labels[0] if "left" in turn.question else labels[-1])
    return (" " if turn.kind == "sequence" else "").join(map(str, labels))


def test_shipped_digits_are_scikit_learns():
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    parts = [load_digits("train"), load_digits("test")]
    index = np.concatenate([part.index for part in parts])
    assert sorted(index) == list(range(1797))
    assert np.array_equal(np.concatenate([part.pixels for part in parts]), reference.images[index])
    assert np.array_equal(np.concatenate([part.label for part in parts]), reference.target[index])


def test_split_is_stratified_and_shares_no_picture():
    train, test = load_digits("train"), load_digits("test")
    assert (len(train.label), len(test.label)) == (1501, 296)
    for label in range(10):
        held_out = len(test.rows_by_label[label])
        assert held_out == (held_out + len(train.rows_by_label[label])) // 6
    assert not {digit.tobytes() for digit in train.pixels} & {digit.tobytes() for digit in test.pixels}


def test_pages_use_only_the_digits_of_their_split(many_pages):
    used = {digit.index for page in many_pages for digit in page.digits}
    assert used == set(load_digits("train").index.tolist())
    used = {digit.index for page in evaluation_questions(3000, seed=0) for digit in page.digits}
    assert used == set(load_digits("test").index.tolist())


def test_same_seed_same_pages_whatever_their_number():
    pages = list(build_pages(12, seed=5, split="train", turns=3))
    assert list(build_pages(7, seed=5, split="train", turns=3)) == pages[:7]
    for other in ({"seed": 6, "split": "train"}, {"seed": 5, "split": "test"}):
        pictures = {page.conversation.images[0].content for page in build_pages(12, turns=3, **other)}
        assert not pictures & {page.conversation.images[0].content for page in pages}


def test_the_pages_of_a_seed_stay_what_they_are():
    pages = list(build_pages(10, seed=0, split="test"))
    answers = [("digit", "8"), ("number", "98"), ("count", "3"), ("larger", "3 and 9: 9"), ("side", "3")]
    answers += [("number", "13"), ("count", "2"), ("larger", "0 and 1: 1"), ("side", "5"), ("digit", "2")]
    assert [(page.kind, page.answer) for page in pages] == answers
    assert [page.question for page in build_pages(10, seed=0, split="test", page_size=80)] == [
        page.question for page in pages
    ]


def test_answers_follow_from_the_digits_on_the_page(many_pages):
    train = load_digits("train")
    labels = dict(zip(train.index.tolist(), train.label.tolist(), strict=True))
    several = list(build_pages(500, seed=1, split="train", turns=9))
    for page in many_pages + several:
        assert [digit.label for digit in page.digits] == [labels[digit.index] for digit in page.digits]
        assert list(page.digits) == sorted(page.digits, key=lambda digit: digit.box[0])
        for turn in page.turns:
            assert turn.answer == right_answer(turn, [digit.label for digit in page.digits])
            if turn.kind == "number":
                assert 10 <= int(turn.answer) <= 99
            if turn.kind in ("larger", "side"):
                left, right = page.digits
                assert left.label != right.label
            if turn.kind == "side":
                assert left.box[2] <= right.box[0]


@pytest.mark.parametrize("page_size", [24, 32, 57, 128])
def test_digits_are_inside_the_page_and_do_not_overlap(page_size):
    for page in build_pages(300, seed=2, split="train", page_size=page_size):
        pixels = picture(page)
        assert pixels.shape == (page_size, page_size, 3)
        ink = (pixels != pixels[0, 0]).any(axis=2)
        for digit in page.digits:
            left, top, right, bottom = digit.box
            assert 1 <= left < right <= page_size - 1 and 1 <= top < bottom <= page_size - 1
            assert bottom - top >= 0.2 * page_size
            assert pixels[top:bottom, left:right].min() <= pixels[0, 0, 0] - 80
        for one, two in combinations([digit.box for digit in page.digits], 2):
            assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
        for left, top, right, bottom in (digit.box for digit in page.digits):
            ink[top:bottom, left:right] = False
        assert not ink.any()


def test_the_picture_shows_the_digits_that_the_page_names():
    def features(ink: Image.Image) -> np.ndarray:
        seen = np.asarray(ink.resize((8, 8), Image.Resampling.BOX), dtype=float).ravel()
        return seen / np.linalg.norm(seen)

    known = load_digits("test")
    reference = np.stack([features(draw_digit(image, 22, 0, 0)) for image in known.images])
    right = []
    for page in build_pages(200, seed=3, split="test", page_size=64):
        pixels = picture(page)[:, :, 0]
        ink = Image.fromarray(pixels[0, 0] - pixels)
        for digit in page.digits:
            nearest = (reference @ features(ink.crop(digit.box))).argmax()
            right.append(known.label[nearest] == digit.label)
    assert np.mean(right) >= 0.9


def test_blind_guessing_stays_low(many_pages):
    answers, kinds = defaultdict(Counter), defaultdict(list)
    for page in many_pages:
        answers[page.question][page.answer] += 1
    guess = {question: counted.most_common(1)[0][0] for question, counted in answers.items()}
    for page in many_pages:
        kinds[page.kind].append(page.answer == guess[page.question])
    rates = {kind: np.mean(hits) for kind, hits in kinds.items()}
    promised = {"digit": 1 / 10, "number": 1 / 90, "count": 1 / 3, "larger": 1 / 90, "side": 1 / 10}
    for kind, rate in promised.items():
        assert rate <= rates[kind] <= rate + 0.03, (kind, rates[kind])
    assert np.mean([hit for hits in kinds.values() for hit in hits]) <= 0.13


def test_evaluation_is_balanced_even_when_read_in_strides():
    pages = evaluation_questions(500, seed=0)
    assert Counter(page.kind for page in pages) == dict.fromkeys(KINDS, 100)
    assert Counter(page.kind for page in pages[::5]) == dict.fromkeys(KINDS, 20)
    assert all(len(page.turns) == 1 for page in pages)
    assert pages[123].conversation.sample_id == "digits/test/seed0/page000123"


def test_conversation_carries_the_turns_and_the_image_once():
    for page in build_pages(100, seed=4, split="train", turns=4):
        messages = page.conversation.messages
        assert [message.role for message in messages] == ["user", "assistant"] * len(page.turns)
        spoken = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
        assert spoken == [text for turn in page.turns for text in (turn.question, turn.answer)]
        assert isinstance(messages[0].parts[0], ImagePart) and len(page.conversation.images) == 1
        assert len({turn.question for turn in page.turns}) == len(page.turns)
        # No question whose answer stands in the conversation already.
        kinds = [turn.kind for turn in page.turns]
        second = ["digit" if len(page.digits) == 1 else "sequence"] if page.kind in ("count", "side") else []
        assert kinds == [page.kind, *second]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "validation"}, "unknown split 'validation'"),
        ({"number": -1}, "number of pages must be 0 or more, got -1"),
        ({"page_size": 23}, "page_size must be at least 24 pixels, got 23"),
        ({"turns": 0}, "turns must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**64}, "seed must be from 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        build_pages(**{"number": 1, "seed": 0, "split": "train", **change})


def test_no_pages_is_no_pages():
    assert list(build_pages(0, seed=2**64 - 1, split="train")) == []
    assert evaluation_questions(0, seed=0) == []
