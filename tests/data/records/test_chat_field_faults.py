"""Tools, tool calls and reasoning that cannot be trained are refused by name."""

import json

import pytest
from chat_models import QWEN3_LIKE, SMOLLM2_INSTRUCT, SMOLLM3_LIKE, chat_tokenizer
from data.records.chat_fields import CALL, MESSAGES, PLACE, TALK, TOOLS, YES, only, sequences
from helpers import build_processor
from memory_source import MemorySource

from smol_hf.data.conversation import SampleError
from smol_hf.data.records import adapt
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.data.records.turn_keys import TOO_DEEP
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.processing.chat_format import ChatTemplateError
from smol_hf.text.chat import TextChat
from smol_hf.text.preferences import PreferenceEncoder, read_preferences
from smol_hf.training.model.chat_template import CHATML


def problem_of(template, record):
    with pytest.raises(SampleError, match=r"^rows.jsonl:1: ") as refused:
        sequences(template, record)
    return refused.value.problem


@pytest.mark.parametrize("template", [CHATML, SMOLLM2_INSTRUCT], ids=["chatml", "smollm2"])
@pytest.mark.parametrize(
    ("record", "what"),
    [
        (only(tool_calls=[CALL]), "message 2 has 'tool_calls'"),
        (only(thinking="Look."), "message 2 has 'thinking'"),
        ({**only(), "tools": TOOLS}, "has 'tools'"),
    ],
)
def test_a_field_that_the_template_does_not_write_is_refused_by_name(template, record, what):
    key = what.split("'")[1]
    expected = f"{what}, which the chat template does not write: remove it, train without it (ignore_fields: [{key}])"
    assert problem_of(template, record).startswith(expected)
    with pytest.raises(SampleError) as refused:
        SampleWork(build_processor(), 512, [None]).prepare(0, "", adapt(record, PLACE))
    assert refused.value.problem.startswith(expected)


@pytest.mark.parametrize("kind", ["text", "images"])
def test_labels_of_a_single_sequence_refuse_a_field_that_the_template_does_not_write(kind):
    """The empty answer would be trained in place of the call."""
    encoder = TextChat(chat_tokenizer(CHATML)) if kind == "text" else build_processor()
    messages = [MESSAGES[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    with pytest.raises(ChatTemplateError, match="message 2 has 'tool_calls', which the chat template does not write"):
        encoder.encode_text(messages, [])


def test_a_call_outside_of_what_the_template_marks_is_refused():
    calls = "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    template = SMOLLM3_LIKE.replace(calls, "").replace("{% endgeneration %}", "{% endgeneration %}" + calls)
    assert "'tool_calls', which the chat template does not mark as generated" in problem_of(
        template, only(tool_calls=[CALL])
    )


def test_reasoning_of_an_answer_that_is_not_trained_may_be_left_out_by_the_template():
    messages = [*MESSAGES[:1], {**MESSAGES[3], "train": False}, *TALK["messages"][4:]]
    (text,) = sequences(QWEN3_LIKE, {"messages": messages})
    assert "So no." not in text and text.count("⟦") == 1


@pytest.mark.parametrize("template", [QWEN3_LIKE, SMOLLM3_LIKE], ids=["qwen3", "smollm3"])
@pytest.mark.parametrize("bad", ["<|im_end|>", "\ue0000\ue001", "\ue00099\ue001"])
def test_a_special_token_in_a_field_is_refused(template, bad):
    call = {"function": {"name": "weather", "arguments": {"city": bad}}}
    for record, what in (
        (only(tool_calls=[call]), "tool_calls of message 2"),
        (only(reasoning=f"x{bad}"), "reasoning of message 2"),
        ({**only(), "tools": [{"name": bad}]}, "tools"),
    ):
        assert problem_of(template, record).startswith(f"{what} holds {bad!r}, which would become a special token")


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**only(), "tools": "weather"}, "tools must be a list of objects, or the JSON text of one"),
        ({**only(), "tools": [{"name": "\ud800"}]}, "tools cannot be written as JSON"),
        ({**only(), "tools": [{"name": b"x"}]}, "tools cannot be written as JSON"),
        (
            only(tool_calls=[{"name": "a", "arguments": "city"}]),
            "'arguments' of 'a' must be an object, or the JSON text",
        ),
        (only(tool_calls=[{"name": "a", "arguments": ["city"]}]), "'arguments' of 'a' must be an object"),
        (only(tool_calls=[{"function": {"name": "a", "arguments": 5}}]), "'arguments' of 'a' must be an object"),
        (only(reasoning=["a"]), "message 2: 'reasoning' must be text, not list"),
        (
            {"messages": [{**MESSAGES[0], "tool_calls": [CALL]}, MESSAGES[3]]},
            "message 1 has 'tool_calls', which cannot",
        ),
    ],
)
def test_what_is_wrong_with_a_field_is_said(record, problem):
    with pytest.raises(SampleError) as refused:
        adapt(record, PLACE)
    assert problem in refused.value.problem


@pytest.mark.parametrize("key", ["tools", "tool_calls"])
@pytest.mark.parametrize("form", ["text", "list"])
def test_a_record_that_is_nested_too_deeply_is_named(key, form):
    if form == "text":
        deep = "[" * 5000
    else:
        deep = [{"name": "weather", "arguments": json.loads('{"a":' * 700 + "1" + "}" * 700)}]
    record = {**only(), "tools": deep} if key == "tools" else only(tool_calls=deep)
    with pytest.raises(SampleError, match="nested too deeply"):
        RecordReader(None, None, Filters())("rows.jsonl:1", record)
    pair = {"prompt": "Rain?", "chosen": record["messages"][1:], "rejected": [YES], "tools": record.get("tools")}
    faults = read_preferences(
        MemorySource("pairs", [("pairs.jsonl:1", pair)]), PreferenceEncoder(chat_tokenizer(QWEN3_LIKE), 512)
    ).faults
    assert [fault.problem for fault in faults] == [TOO_DEEP]
