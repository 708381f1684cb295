"""Intervals, comparisons and baselines."""

import numpy as np
import pytest

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.evaluation.baselines import blind, chosen_baselines, majority_answers, shuffled
from smol_hf.evaluation.statistics import compare, grouped, length_of, resampled_means, summary
from smol_hf.evaluation.tasks import Question


def asked(name, *paths, text="Which digit?"):
    parts = (*(ImagePart(path=path) for path in paths), TextPart(text))
    return Conversation(name, (Message("user", parts),))


def test_the_interval_is_that_of_a_mean():
    scores = [1.0] * 60 + [0.0] * 40
    found = summary(scores, seed=0)
    assert found["score"] == 0.6 and found["questions"] == 100
    error = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert found["low"] == pytest.approx(0.6 - error, abs=0.015)
    assert found["high"] == pytest.approx(0.6 + error, abs=0.015)
    assert summary(scores, seed=0) == found and summary(scores, seed=1) != found


@pytest.mark.parametrize(
    "scores, low, high",
    [
        ([1.0] * 12, 0.7354, 1),
        ([0.0] * 12, 0, 0.2646),
        ([1.0], 0.025, 1),
        ([0.8], 0.02, 0.995),
        ([2.0] * 3, 0.5848, 2),
    ],
)
def test_equal_scores_have_an_interval_too(scores, low, high):
    found = summary(scores, seed=0)
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_many_rows_are_resampled_in_parts():
    assert resampled_means(np.arange(5000.0), 0).std() == pytest.approx(5000 / np.sqrt(12 * 5000), rel=0.1)


def test_a_comparison_is_paired():
    better = compare([1, 1, 1, 1, 0, 0] * 20, [1, 1, 1, 0, 0, 0] * 20, seed=0)
    assert better["difference"] == pytest.approx(1 / 6) and better["low"] > 0 and better["probability"] > 0.999
    same = compare([1, 0] * 50, [1, 0] * 50, seed=0)
    assert (same["difference"], same["probability"]) == (0, 0.5)
    unclear = compare([1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0], seed=0)
    assert 0.5 < unclear["probability"] < 0.95
    worse = compare([0, 0, 0, 1] * 20, [1, 1, 0, 1] * 20, seed=0)
    assert worse["difference"] == -0.5 and worse["high"] < 0 and worse["probability"] > 0.999


def test_other_images_are_never_the_own_ones():
    conversations = [asked(f"row{number}", f"{number % 4}.png") for number in range(12)]
    conversations += [asked("none"), asked("two", "1.png", "2.png")]
    found = shuffled(conversations, seed=3)
    assert found[12:] == [None, None]  # without an image, and without another row of two images
    others = {}
    for before, after in zip(conversations[:12], found[:12]):
        assert after.sample_id == before.sample_id and after.messages[0].parts[-1] == TextPart("Which digit?")
        assert after.images != before.images
        assert others.setdefault(before.images[0].path, after.images[0].path) == after.images[0].path
    assert sorted(others.values()) == sorted(others)
    assert shuffled(conversations, seed=3) == found


def test_without_images_only_texts_are_left():
    assert blind(asked("row", "1.png")) == asked("row")


def test_the_commonest_answer_of_each_source():
    rows = [("a", "1"), ("a", "2"), ("a", "2"), ("b", "3"), ("b", "1")]
    questions = [Question(f"{number}", source, asked("x"), (answer,)) for number, (source, answer) in enumerate(rows)]
    assert majority_answers(questions) == ["2", "2", "2", "3", "3"]


def test_words_of_baselines():
    assert chosen_baselines(["none"]) == () and len(chosen_baselines(["all"])) == 3
    assert chosen_baselines(["majority", "blind"]) == ("blind", "majority")


def test_groups():
    assert [length_of(text) for text in ("", "a", "a b", "a b c d", "a " * 11)] == [
        "1 word", "1 word", "2 to 3 words", "4 to 10 words", "more than 10 words",
    ]  # fmt: skip
    assert list(grouped(["b1", "a1", "", "b2"], lambda row: row[:1])) == [("b", ["b1", "b2"]), ("a", ["a1"])]
