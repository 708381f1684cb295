"""Filters: what they remove, what they keep, and that the defaults keep everything."""

import pytest
from records import assistant, conversation, user

from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart, VideoPart
from smol_hf.data.records.filters import Filters

A, B, FILM = ImagePart(path="a.png"), ImagePart(path="b.png"), VideoPart(path="v.mp4")
SYSTEM = Message("system", (TextPart("Be brief."),))
RATED = conversation(
    SYSTEM, user(A, "one?"), assistant("1"), user("two?"), assistant("2"), user(B, "three?"), assistant("3"),
    source="docvqa",
    turn_ratings=({"relevance": 1, "formatting": 5}, {"relevance": 4}, {"formatting": 2}),
)  # fmt: skip


def removed_by(filters, sample):
    remaining, reason = filters.apply(sample)
    assert remaining is None
    return reason


@pytest.mark.parametrize("filters", [Filters(), Filters.from_mapping({})])
@pytest.mark.parametrize(
    "sample",
    [
        RATED,
        conversation(user(), assistant("")),
        conversation(*[user("?"), assistant("!")] * 500),
        conversation(user(*[A] * 100, "?"), assistant("x" * 100_000)),
    ],
)
def test_the_defaults_leave_everything(filters, sample):
    assert filters.apply(sample) == (sample, None)


@pytest.mark.parametrize(
    "least, remaining",
    [
        ({"relevance": 1}, RATED),
        (
            {"relevance": 2},
            conversation(
                SYSTEM, user(A, "two?"), assistant("2"), user(B, "three?"), assistant("3"),
                source="docvqa", turn_ratings=({"relevance": 4}, {"formatting": 2}),
            ),
        ),
        (
            {"relevance": 5},
            conversation(
                SYSTEM, user(A, B, "three?"), assistant("3"), source="docvqa", turn_ratings=({"formatting": 2},)
            ),
        ),
        (
            {"formatting": 3},
            conversation(
                SYSTEM, user(A, "one?"), assistant("1"), user("two?"), assistant("2"),
                source="docvqa", turn_ratings=RATED.turn_ratings[:2],
            ),
        ),
        ({"visual_dependency": 5}, RATED),
    ],
)  # fmt: skip
def test_a_turn_rated_too_low_is_removed_and_its_images_stay(least, remaining):
    assert Filters(min_ratings=least).apply(RATED) == (remaining, None)


def test_when_every_turn_is_removed_the_reason_says_why():
    reason = removed_by(Filters(min_ratings={"relevance": 5, "formatting": 3}), RATED)
    assert reason == "no turn is left: 2 rated below 5 in relevance, 1 rated below 3 in formatting"
    assert removed_by(Filters(), conversation(SYSTEM)) == "no turn is left: there was none"


def test_a_conversation_without_ratings_is_kept():
    sample = conversation(user("?"), assistant("!"))
    assert Filters(min_ratings={"relevance": 5}).apply(sample) == (sample, None)


def test_ratings_must_be_as_many_as_turns():
    sample = conversation(user("?"), assistant("!"), turn_ratings=({}, {}))
    with pytest.raises(SampleError, match="rows:1: ratings of 2 turns, but 1 turns"):
        Filters().apply(sample)


@pytest.mark.parametrize(
    "messages, remaining",
    [
        ([user(FILM, "?"), assistant(" \n"), user("And?"), assistant("!")], [user(FILM, "And?"), assistant("!")]),
        ([user("\t"), assistant("!"), user("?"), assistant("!")], [user("?"), assistant("!")]),
        ([user(A), assistant("!")], [user(A), assistant("!")]),
        ([user(A), Message("assistant", ()), user(""), assistant("2"), user("?"), assistant("!")],
         [user(A, "?"), assistant("!")]),
        ([user("?"), assistant("!"), user(B, "?"), assistant("")], [user("?"), assistant("!")]),
        ([user("?"), assistant(""), assistant("!")], [user("?"), assistant(""), assistant("!")]),
        ([user(A), user("?"), assistant("!")], [user(A), user("?"), assistant("!")]),
        ([assistant("Welcome."), user(A, "?"), assistant("!")], [user(A, "?"), assistant("!")]),
    ],
)  # fmt: skip
def test_empty_turns_are_dropped(messages, remaining):
    result, reason = Filters(drop_empty_turns=True).apply(conversation(*messages))
    assert (result, reason) == (conversation(*remaining), None)


def test_a_conversation_of_empty_turns_is_left_out():
    reason = removed_by(Filters(drop_empty_turns=True), conversation(user("?"), assistant("")))
    assert reason == "no turn is left: 1 without a question or an answer"


SAMPLE = conversation(SYSTEM, user(A, B, FILM, "one?"), assistant("1"), user("two?"), assistant("2"))


@pytest.mark.parametrize(
    "limit, passes, fails, reason",
    [
        ("min_images", 2, 3, "2 images, fewer than min_images 3"),
        ("max_images", 2, 1, "2 images, more than max_images 1"),
        ("max_images", 2, 0, "2 images, more than max_images 0"),
        ("max_turns", 2, 1, "2 turns, more than max_turns 1"),
        ("max_characters", 19, 18, "19 characters, more than max_characters 18"),
    ],
)
def test_a_limit_is_exact(limit, passes, fails, reason):
    assert Filters(**{limit: passes}).apply(SAMPLE) == (SAMPLE, None)
    assert removed_by(Filters(**{limit: fails}), SAMPLE) == reason


def test_limits_look_at_what_remains():
    assert Filters(min_ratings={"relevance": 2}, max_turns=2).apply(RATED)[1] is None
    assert removed_by(Filters(max_turns=2), RATED) == "3 turns, more than max_turns 2"
    removed = Filters(min_ratings={"formatting": 3}, min_images=2)
    assert removed_by(removed, RATED) == "1 image, fewer than min_images 2"


def test_filters_of_a_recipe():
    values = {"min_ratings": {"relevance": 3}, "max_images": 4, "max_turns": None, "drop_empty_turns": True}
    assert Filters.from_mapping(values) == Filters(min_ratings={"relevance": 3}, max_images=4, drop_empty_turns=True)


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"max_image": 4}, r"unknown filter 'max_image': did you mean 'max_images'\? \(there are min_ratings, "),
        ({7: 4}, "unknown filter 7 "),
        ({"max_images": "4"}, "max_images must be a whole number of 0 or more, not '4'"),
        ({"max_images": -1}, "max_images must be"),
        ({"max_turns": True}, "max_turns must be"),
        ({"max_characters": 1.5}, "max_characters must be"),
        ({"min_images": None}, "min_images must be"),
        ({"min_images": 3, "max_images": 2}, "min_images 3 is more than max_images 2"),
        ({"min_ratings": 3}, "min_ratings must map names to whole numbers"),
        ({"min_ratings": {"relevance": "high"}}, "min_ratings.relevance must be a whole number"),
        ({"min_ratings": {"relevence": 3}}, "unknown rating 'relevence': did you mean 'relevance'"),
        ({"drop_empty_turns": 1}, "drop_empty_turns must be true or false"),
    ],
)
def test_a_filter_that_is_none_is_refused(values, problem):
    with pytest.raises(ValueError, match=problem):
        Filters.from_mapping(values)


def test_other_adapters_may_rate_by_other_names():
    sample = Conversation("x", (user("?"), assistant("!")), turn_ratings=({"beauty": 2},))
    assert removed_by(Filters.from_mapping({"min_ratings": {"beauty": 3}}), sample)
