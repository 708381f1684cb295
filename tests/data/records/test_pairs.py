"""Prompts with completions, instructions with outputs, questions with answers; and chat messages under other names."""

import json

import pytest
from records import MEDIA, assistant, check, conversation, fault_of, user

from smol_hf.data.conversation import ImagePart, Message, TextPart
from smol_hf.data.records import Place, adapt

PLACE = Place("rows:1", MEDIA)
SYSTEM = Message("system", (TextPart("Be brief."),))
CAT = ImagePart(path=str(MEDIA / "cat.png"))
ASKED = {"role": "user", "content": "What?"}
SAID = {"role": "assistant", "content": "A cat."}
LOOK = conversation(user("What?\n\nLook."), assistant("Yes."))
SHOWN = conversation(user(CAT, "What?"), assistant("A cat."))
SHAREGPT = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
DATA = json.dumps([ASKED, SAID])
PAIR = conversation(user("What?"), assistant("A cat."))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "What?", "completion": "A cat."}, PAIR),
        ({"prompt": [ASKED], "completion": [SAID]}, PAIR),
        ({"prompt": json.dumps([ASKED]), "completion": json.dumps([SAID])}, PAIR),
        ({"prompt": json.dumps(ASKED), "completion": [SAID]}, PAIR),
        ({"prompt": "[1]", "completion": DATA}, conversation(user("[1]"), assistant(DATA))),
        ({"prompt": "What?", "completion": "A cat.", "system": "Be brief."}, conversation(SYSTEM, *PAIR.messages)),
        ({"instruction": "What?", "output": "A cat."}, PAIR),
        ({"instruction": "What?", "input": "", "output": "A cat."}, PAIR),
        ({"instruction": "What?", "input": "Look.", "output": "Yes."}, LOOK),
        ({"instruction": "What?", "context": "Look.", "response": "Yes."}, LOOK),
        (
            {"instruction": "What?", "output": "A cat.", "history": [["Hi", "Hello"]]},
            conversation(user("Hi"), assistant("Hello"), *PAIR.messages),
        ),
        ({"question": "What?", "answer": "A cat."}, PAIR),
        ({"image": "cat.png", "question": "What?", "answer": "A cat."}, SHOWN),
        (
            {"images": ["cat.png"], "question": "In <image>, what?", "answer": "A cat.", "caption": "x"},
            conversation(user("In ", CAT, ", what?"), assistant("A cat.")),
        ),
        ({"messages": json.dumps([ASKED, SAID])}, PAIR),
        ({"conversations": json.dumps(SHAREGPT)}, PAIR),
        ({"conversations": [ASKED, SAID]}, PAIR),
        ({"messages": SHAREGPT}, PAIR),
        (
            {"image": "cat.png", "conversations": [{"role": "user", "content": "<image>\nWhat?"}, SAID]},
            SHOWN,
        ),
    ],
)  # fmt: skip
def test_each_shape_is_read_as_the_same_conversation(record, expected):
    check(record, expected)


def test_the_prompt_is_not_trained():
    record = {"prompt": [ASKED, SAID, ASKED], "completion": [SAID]}
    assert [message.trained for message in adapt(record, PLACE).messages] == [True, False, True, True]


@pytest.mark.parametrize("key", ["weight", "train", "loss_mask"])
def test_marks_inside_the_prompt_do_not_train_it(key):
    for value, ignored in ((1, (f"prompt[].{key}",)), (0, ()), (None, ())):
        record = {"prompt": [ASKED, {**SAID, key: value}, {**ASKED, key: value}], "completion": [{**SAID, key: 1}]}
        conversation = adapt(record, PLACE)
        assert [message.trained for message in conversation.messages] == [True, False, True, True]
        assert conversation.ignored == ignored


def test_the_roles_of_tools_and_developers():
    turns = [
        {"role": "developer", "content": "Be brief."},
        ASKED,
        {"role": "assistant", "content": "<tool_call>look()</tool_call>"},
        {"role": "tool", "content": "a cat", "name": "look"},
        SAID,
    ]
    expected = conversation(
        SYSTEM,
        user("What?"),
        assistant("<tool_call>look()</tool_call>"),
        Message("tool", (TextPart("a cat"),), fields={"name": "look"}),
        assistant("A cat."),
    )
    assert adapt({"messages": turns}, PLACE) == expected
    assert adapt({"messages": turns}, PLACE).ignored == ()
    names = {"developer": "developer", "user": "human", "assistant": "gpt", "tool": "observation"}
    sharegpt = [{**turn, "from": names[turn["role"]], "value": turn["content"]} for turn in turns]
    sharegpt = [{key: value for key, value in turn.items() if key not in ("role", "content")} for turn in sharegpt]
    assert adapt({"conversations": sharegpt}, PLACE) == expected


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "a", "completion": "b", "question": "c", "answer": "d"}, "has both"),
        ({"instruction": "a", "output": "b", "response": "c"}, "has both 'output' and 'response'"),
        ({"instruction": "a", "output": 5}, "'output' must be text, not int"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "'history' must be a list of pairs"),
        ({"question": "a", "answer": ["b"]}, "'answer' must be text, not list"),
        ({"prompt": 5, "completion": "b"}, "prompt must be a list of objects"),
        ({"prompt": "a", "completion": "b", "tools": {"name": "x"}}, "tools must be a list of objects"),
        ({"messages": "[1, 2"}, "or the JSON text of one"),
        ({"messages": json.dumps({"a": 1})}, "must be a list of objects"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(record, problem):
    assert problem in fault_of(record)


@pytest.mark.parametrize("image", [None, "", [], {"bytes": None}, {"bytes": None, "path": None}])
def test_an_empty_image_is_none(image):
    for record in (
        {"question": "What?", "answer": "A cat."},
        {"messages": [ASKED, SAID]},
        {"conversations": SHAREGPT},
        {"prompt": "What?", "completion": "A cat."},
    ):
        assert adapt({"image": image, **record}, PLACE) == PAIR
        if "conversations" not in record:
            assert adapt({"image": image, "images": ["cat.png"], **record}, PLACE).images == [CAT]
