"""Preferences as their datasets write them, and the tokens that TRL gets of them."""

import json

import pytest
from chat_models import HOSTILE, SMOLLM2_INSTRUCT, chat_tokenizer
from trl import chat_template_utils as trl_templates

from smol_hf.data.conversation import SampleError, TooLongError
from smol_hf.data.sources.location import open_location
from smol_hf.text.preferences import PreferenceEncoder, preference_of, read_preferences

ASKED = {"role": "user", "content": "Who wrote it?"}
GOOD, BAD = {"role": "assistant", "content": "Nobody."}, {"role": "assistant", "content": "I did!"}
SYSTEM = {"role": "system", "content": "Be brief."}


def parts(text):
    return [{"type": "text", "text": text}]


@pytest.mark.parametrize(
    ("record", "before"),
    [
        ({"prompt": "Who wrote it?", "chosen": "Nobody.", "rejected": "I did!"}, [ASKED]),
        ({"prompt": "Who wrote it?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 9}, [ASKED]),
        ({"prompt": None, "chosen": [SYSTEM, ASKED, GOOD], "rejected": [SYSTEM, ASKED, BAD]}, [SYSTEM, ASKED]),
        ({"prompt": [SYSTEM, ASKED], "chosen": [GOOD], "rejected": [BAD]}, [SYSTEM, ASKED]),
        ({"prompt": [ASKED], "chosen": "Nobody.", "rejected": "I did!"}, [ASKED]),
        ({"prompt": "Who wrote it?", "chosen": [GOOD], "rejected": [BAD]}, [ASKED]),
        (
            {"chosen": [{**ASKED, "content": parts("Who wrote it?")}, GOOD], "rejected": [ASKED, BAD]},
            [ASKED],
        ),
    ],
    ids=["texts", "ultrafeedback", "no prompt", "explicit", "prompt of messages", "answers alone", "parts"],
)
def test_the_forms_of_preferences_are_one(record, before):
    pair = preference_of("a:1", record, chats=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == (before, "Nobody.", "I did!")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([], "a record is a JSON object, not list"),
        ({"prompt": "a", "chosen": "b"}, "needs the keys 'chosen' and 'rejected'; it has"),
        ({"chosen": "b", "rejected": "c"}, "two texts with a prompt, or two lists of messages"),
        ({"prompt": "a", "chosen": "b", "rejected": [BAD]}, "two texts with a prompt, or two lists"),
        ({"prompt": "a", "chosen": "b ", "rejected": "b"}, "are the same: remove the record"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is empty"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, None),
        ({"chosen": [GOOD], "rejected": [BAD]}, "the prompt is empty"),
        ({"chosen": [ASKED, GOOD], "rejected": [SYSTEM, BAD]}, "the same except for their last"),
        ({"chosen": [GOOD, ASKED], "rejected": [GOOD, SYSTEM]}, "must end with a message of the assistant"),
        ({"prompt": "x", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, "not a message of the user in chosen"),
        (
            {"prompt": [SYSTEM], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
            "begins differently from the prompt",
        ),
        (
            {"prompt": [SYSTEM], "chosen": [GOOD], "rejected": [BAD]},
            "the prompt must end with the user, not with the system",
        ),
        ({"prompt": [{"role": "robot", "content": "x"}], "chosen": [GOOD], "rejected": [BAD]}, "unknown role 'robot'"),
        (
            {"chosen": [{**ASKED, "content": [{"type": "image"}]}, GOOD], "rejected": [ASKED, BAD]},
            "chosen, message 1: 'content' must be text",
        ),
    ],
)
def test_a_record_that_prefers_nothing_is_refused_by_name(record, problem):
    if problem is None:
        assert preference_of("a:1", record, chats=True).prompt[0]["content"] == " "
        record, problem = record, "the prompt is empty"
        with pytest.raises(SampleError, match=problem):
            preference_of("a:1", record, chats=False)
        return
    with pytest.raises(SampleError, match="a:1") as refused:
        preference_of("a:1", record, chats=True)
    assert problem in str(refused.value)


def test_answers_follow_the_prompt_that_asks_for_them_and_end_with_the_turn():
    chosen = chat_tokenizer(SMOLLM2_INSTRUCT)
    record = {"prompt": HOSTILE, "chosen": f"Nobody. {HOSTILE}", "rejected": "I did!"}
    ids = PreferenceEncoder(chosen, 1000).encode("a:1", preference_of("a:1", record, chats=True))
    text = chosen.apply_chat_template(
        [{"role": "user", "content": HOSTILE}], tokenize=False, add_generation_prompt=True
    )
    assert chosen.decode(ids["prompt_ids"]) == text
    assert chosen.decode(ids["chosen_ids"]) == f"Nobody. {HOSTILE}<|im_end|>"
    assert chosen.decode(ids["rejected_ids"]) == "I did!<|im_end|>"
    end = chosen.convert_tokens_to_ids("<|im_end|>")
    assert ids["chosen_ids"].count(end) == ids["rejected_ids"].count(end) == 1
    assert ids["prompt_ids"].count(end) == 2, "the default system message and the user's turn end, and nothing else"


def test_texts_for_a_model_without_a_template_are_continued():
    chosen = chat_tokenizer(None)
    record = {"prompt": "Nobody <|im_end|>", "chosen": " wrote it", "rejected": " knows"}
    ids = PreferenceEncoder(chosen, 100).encode("a:1", preference_of("a:1", record, chats=False))
    assert chosen.decode(ids["prompt_ids"] + ids["chosen_ids"]) == "Nobody <|im_end|> wrote it<|endoftext|>"
    assert chosen.convert_tokens_to_ids("<|im_end|>") not in ids["prompt_ids"]
    talks = {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
    with pytest.raises(SampleError, match="holds messages, but the model has no chat template"):
        PreferenceEncoder(chosen, 100).encode("a:1", preference_of("a:1", talks, chats=False))


def test_nothing_is_cut_and_what_the_template_refuses_is_named():
    chosen = chat_tokenizer(SMOLLM2_INSTRUCT)
    pair = preference_of("a:1", {"prompt": "Who?", "chosen": "Nobody.", "rejected": "I did!"}, chats=True)
    ids = PreferenceEncoder(chosen, 1000).encode("a:1", pair)
    length = len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
    PreferenceEncoder(chosen, length).encode("a:1", pair)
    with pytest.raises(TooLongError, match=f"a:1: {length} tokens, more than max_length {length - 1}"):
        PreferenceEncoder(chosen, length - 1).encode("a:1", pair)
    gemma = PreferenceEncoder(chat_tokenizer(trl_templates.gemma_chat_template), 1000)
    refused = preference_of("a:1", {"chosen": [SYSTEM, ASKED, GOOD], "rejected": [SYSTEM, ASKED, BAD]}, chats=True)
    with pytest.raises(SampleError, match="a:1: the chat template rejects the messages: System role not supported"):
        gemma.encode("a:1", refused)


def test_a_file_is_read_row_by_row(tmp_path):
    rows = [
        {"prompt": "Who?", "chosen": "Nobody.", "rejected": "I did!"},
        {"prompt": "Who?", "chosen": "Nobody.", "rejected": "Nobody."},
        {"prompt": "Who?", "chosen": "Nobody."},
        {"prompt": "Who? " * 50, "chosen": "Nobody.", "rejected": "I did!"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    found = read_preferences(open_location(str(path)).source, PreferenceEncoder(chat_tokenizer(SMOLLM2_INSTRUCT), 150))
    assert [len(column) for column in found.rows.values()] == [1, 1, 1] and found.total == 5
    assert [fault.where for fault in found.faults] == [f"pairs.jsonl:{row}" for row in (2, 3, 5)]
    assert [fault.where for fault in found.left_out] == ["pairs.jsonl:4"] and found.longest_run == 2


TALK = [ASKED, {"role": "assistant", "content": "Me."}, {"role": "user", "content": "Really?"}]
PAIR = {"chosen": "Nobody.", "rejected": "I did!"}
HH = "\n\nHuman: Who wrote it?\n\nAssistant: Me.\n\nHuman: Really?\n\nAssistant:"


@pytest.mark.parametrize(
    ("record", "before"),
    [
        ({"prompt": "Who wrote it?", "chosen": GOOD, "rejected": BAD}, [ASKED]),
        ({"chosen": f"{HH} Nobody.", "rejected": f"{HH} I did!"}, TALK),
        ({"question": "Who wrote it?", "system": "Be brief.", **PAIR}, [SYSTEM, ASKED]),
        ({"instruction": "Who wrote", "input": "it?", **PAIR}, [{"role": "user", "content": "Who wrote\n\nit?"}]),
        ({"instruction": "Who wrote it?", "input": "", **PAIR}, [ASKED]),
        (
            {
                "conversations": [{"from": "human", "value": "Who wrote it?"}],
                "chosen": {"from": "gpt", "value": "Nobody."},
                "rejected": {"from": "gpt", "value": "I did!"},
            },
            [ASKED],
        ),
        ({"prompt": "Who wrote it?", "messages": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, [ASKED]),
    ],
    ids=["one message each", "HH-RLHF", "Orca", "Alpaca", "Alpaca without input", "LLaMA-Factory", "zephyr"],
)  # fmt: skip
def test_other_forms_of_preferences_are_read(record, before):
    pair = preference_of("a:1", record, chats=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == (before, "Nobody.", "I did!")


@pytest.mark.parametrize("dumps", [json.dumps, lambda value: json.dumps(value, indent=1)])
def test_messages_of_preferences_may_be_json_strings(dumps):
    for record in (
        {"prompt": dumps([SYSTEM, ASKED]), **PAIR},
        {"prompt": dumps([SYSTEM, ASKED]), "chosen": dumps([GOOD]), "rejected": dumps(BAD)},
        {"chosen": dumps([SYSTEM, ASKED, GOOD]), "rejected": dumps([SYSTEM, ASKED, BAD])},
        {"prompt": "Who wrote it?", "chosen": dumps([SYSTEM, ASKED, GOOD]), "rejected": [SYSTEM, ASKED, BAD]},
        {"messages": dumps([SYSTEM, ASKED]), "chosen": GOOD, "rejected": BAD},
        {"conversations": dumps([SYSTEM, {"from": "human", "value": "Who wrote it?"}]), **PAIR},
    ):
        pair = preference_of("a:1", record, chats=True)
        assert (pair.prompt, pair.chosen, pair.rejected) == ([SYSTEM, ASKED], "Nobody.", "I did!")
        assert pair.ignored == ()


@pytest.mark.parametrize("nothing", [None, "", [], [None], [""], {"bytes": None}, {"bytes": b"", "path": ""}])
def test_an_empty_field_of_images_is_no_image(nothing):
    for key in ("image", "images", "video", "videos", "audio"):
        pair = preference_of("a:1", {"prompt": "Who wrote it?", key: nothing, **PAIR}, chats=True)
        assert (pair.prompt, pair.ignored) == ([ASKED], ())
    for given in ("cat.png", {"bytes": None, "path": "cat.png"}, [None, b"png"]):
        with pytest.raises(SampleError, match="has 'images', but DPO learns from texts only"):
            preference_of("a:1", {"prompt": "Who?", "images": given, **PAIR}, chats=True)


def test_other_json_in_preferences_is_text():
    prompt, chosen, rejected = '[{"name": "x"}]', '{"role": "engineer"}', '["user"]'
    pair = preference_of("a:1", {"prompt": prompt, "chosen": chosen, "rejected": rejected}, chats=True)
    assert (pair.prompt, pair.chosen, pair.rejected) == ([{"role": "user", "content": prompt}], chosen, rejected)
    counted = {"prompt": json.dumps([{**ASKED, "name": "Ann"}]), **PAIR}
    assert preference_of("a:1", counted, chats=True).ignored == ("prompt[].name",)
    for record, problem in (
        ({"messages": "[{broken", **PAIR}, "messages must be a list of objects, or the JSON text of one"),
        ({"prompt": "a", "chosen": json.dumps([GOOD]), "rejected": "b"}, "two texts with a prompt, or two lists"),
    ):
        with pytest.raises(SampleError, match=problem):
            preference_of("a:1", record, chats=True)


def test_a_transcript_is_continued_by_a_model_without_a_template():
    pair = preference_of("a:1", {"chosen": f"{HH} Nobody.", "rejected": f"{HH} I did!"}, chats=False)
    assert (pair.prompt, pair.chosen, pair.rejected) == (HH, " Nobody.", " I did!")
    for talk in (HH, HH.lstrip("\n"), HH[1:]):
        said = {"chosen": f"{talk} The Assistant: is b", "rejected": f"{talk}The Assistant: is c\nAssistant: d"}
        pair = preference_of("a:1", said, chats=False)
        assert pair.prompt == talk
        assert (pair.chosen, pair.rejected) == (" The Assistant: is b", "The Assistant: is c\nAssistant: d")
    for chats in (True, False):
        unfinished = {"chosen": f"{HH} a\n\nHuman: b", "rejected": f"{HH} a\n\nHuman: c"}
        with pytest.raises(SampleError, match="chosen and rejected must end with a message of the assistant"):
            preference_of("a:1", unfinished, chats=chats)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "a", "images": ["cat.png"], **PAIR}, "has 'images', but DPO learns from texts only"),
        ({"prompt": "a", "functions": [{"name": "w"}], **PAIR}, "has 'functions', which cannot be trained on yet"),
        ({"prompt": [ASKED, {**GOOD, "tool_calls": [{}]}, ASKED], **PAIR}, "prompt, message 2: a call in"),
        (
            {"prompt": "a", "chosen": [{**GOOD, "content": parts(None)}], "rejected": [BAD]},
            "chosen, message 1: 'text' must be text, not NoneType",
        ),
        ({"prompt": "a", "chosen": [{**GOOD, "content": parts(5)}], "rejected": [BAD]}, "must be text, not int"),
        ({"prompt": "a", "chosen": [{**GOOD, "refusal": "hm"}], "rejected": [BAD]}, "'refusal'"),
        ({"prompt": "a", "chosen": [{**GOOD, "weight": 0}], "rejected": [BAD]}, "chosen is marked as not trained"),
        ({"system": "x", "prompt": [SYSTEM, ASKED], **PAIR}, "another one in its messages"),
        ({"question": "a", "instruction": "b", **PAIR}, "a prompt under 'question' and 'instruction'"),
        ({"chosen": f"{HH} a", "rejected": "\n\nHuman: What?\n\nAssistant: b"}, "the same except for their last"),
    ],
)  # fmt: skip
def test_what_preferences_cannot_use_is_refused_by_name(record, problem):
    with pytest.raises(SampleError, match=r"^a:1: ") as refused:
        preference_of("a:1", record, chats=True)
    assert problem in refused.value.problem


def test_other_fields_of_preferences_are_counted(tmp_path):
    row = {"prompt": [{**ASKED, "name": "Ann"}], "chosen": [GOOD], "rejected": [BAD], "score_chosen": 9.0, "id": 3}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "images": ["a.png"]}) + "\n")
    encoder = PreferenceEncoder(chat_tokenizer(SMOLLM2_INSTRUCT), 150)
    found = read_preferences(open_location(str(path)).source, encoder)
    assert found.ignored == {"score_chosen": 1, "prompt[].name": 1} and len(found.faults) == 1
    again = read_preferences(open_location(str(path)).source, encoder, ignore_fields=["images"])
    assert again.ignored == {"score_chosen": 2, "prompt[].name": 2} and not again.faults
