"""Ratings of turns as prepared files hold them, and messages that say nothing."""

import re

import pytest
from records import PLACE, check, conversation, fault_of, user

from smol_hf.data.conversation import Message
from smol_hf.data.records import adapt

MESSAGES = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}]}
TURNS = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "."}]}


@pytest.mark.parametrize("record", [MESSAGES, TURNS], ids=["messages", "llava"])
def test_ratings_are_read_with_the_turns(record):
    rated = {**record, "turn_ratings": [[{"name": "relevance", "rating": 4}, {"name": "formatting", "rating": 1}]]}
    check(rated, adapt(rated, PLACE))
    assert adapt(rated, PLACE).turn_ratings == ({"relevance": 4, "formatting": 1},)
    assert adapt({**record, "turn_ratings": None}, PLACE).turn_ratings == ()


@pytest.mark.parametrize(
    "ratings, problem",
    [
        (3, "'turn_ratings' must be a list, not int"),
        ([3], "'turn_ratings.0' must be a list, not int"),
        ([[{"name": "relevance"}]], r"lacks the field 'turn_ratings.0\[0\].rating'"),
        ([[{"name": "relevance", "rating": "4"}]], "must hold a whole number, not '4'"),
        ([[{"name": 4, "rating": 4}]], "must be text, not int"),
    ],
)
def test_ratings_of_another_form_are_refused(ratings, problem):
    assert re.search(problem, str(fault_of({**MESSAGES, "turn_ratings": ratings})))


def test_a_message_without_parts_says_nothing():
    record = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": []}]}
    assert adapt(record, PLACE) == conversation(user("?"), Message("assistant", ()))
