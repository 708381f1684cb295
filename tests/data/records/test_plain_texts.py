"""Plain texts: records of one text without turns and media."""

import pytest
from records import PLACE, check, conversation, fault_of

from smol_hf.data.conversation import DOCUMENT, Message, TextPart
from smol_hf.data.records import adapt
from smol_hf.data.records.filters import Filters

TEXT = " Once <image> was\n<|endoftext|> "
PLAIN = conversation(Message(DOCUMENT, (TextPart(TEXT),)))


@pytest.mark.parametrize("more", [{}, {"id": "7"}, {"images": []}, {"videos": None, "messages": None}])
def test_a_text_is_read_as_it_is(more):
    check({"text": TEXT, **more}, PLAIN)


def test_its_source_is_kept_and_other_fields_are_named():
    read = adapt({"text": TEXT, "source": "books", "url": "x", "score": 1.0}, PLACE)
    assert read.source == "books" and read.ignored == ("url", "score")


@pytest.mark.parametrize(
    "record, problem",
    [
        ({"text": " \n"}, "its text is empty: remove the record"),
        ({"text": 3}, "the field 'text' must be text, not int"),
        ({"text": TEXT, "imgae": "a.png"}, "unknown key 'imgae', did you mean 'image'?"),
        ({"text": TEXT, "tools": [{"name": "x"}]}, "has 'tools'"),
        ({"text": TEXT, "image": None}, "needs the key 'conversations' or 'messages'"),
        ({"text": TEXT, "images": ["a.png"]}, "needs the key 'conversations' or 'messages'"),
        ({"text": TEXT, "question": "Why?"}, "needs the key 'conversations' or 'messages'"),
        ({"text": TEXT, "chosen": "a", "rejected": "b"}, "needs the key 'conversations' or 'messages'"),
    ],
)
def test_what_is_no_plain_text_is_refused(record, problem):
    assert problem in fault_of(record)


def test_media_are_refused_if_the_adapter_is_named():
    assert "with an image or a video" in fault_of({"text": TEXT, "images": ["a.png"]}, name="plain_text")


def test_filters_of_turns_keep_it_and_limits_count_its_characters():
    assert Filters(drop_empty_turns=True, min_ratings={"relevance": 3}).apply(PLAIN) == (PLAIN, None)
    reason = Filters(max_characters=5).apply(PLAIN)[1]
    assert reason == f"{len(TEXT)} characters, more than max_characters 5"
