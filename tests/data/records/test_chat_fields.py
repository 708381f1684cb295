"""Tools, tool calls and reasoning: trained where the chat template writes them, and otherwise refused by name."""

import json

import pytest
from chat_models import QWEN3_LIKE, SMOLLM3_LIKE, chat_tokenizer
from data.records.chat_fields import CALL, MESSAGES, PLACE, TALK, TOOLS, YES, only, sequences
from doc_pages import blocks
from helpers import build_processor
from trl import chat_template_utils as trl_templates

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import MixtureEntry
from smol_hf.data.prepare import prepare
from smol_hf.data.records import adapt
from smol_hf.data.records.tools import checked_call
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.chat import TextChat, TextChatWork
from smol_hf.text.preferences import PreferenceEncoder, preference_of
from smol_hf.training.data import open_data
from smol_hf.training.model.chat_template import CHATML
from smol_hf.training.recipe.data_arguments import DataArguments

TOOLS_WRITTEN = json.dumps(TOOLS[0])
CALL_WRITTEN = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
QWEN3_HEAD = f"<|im_start|>system\nTools: {TOOLS_WRITTEN}<|im_end|>\n<|im_start|>user\nRain?<|im_end|>\n"
ASKS = "<|im_start|>assistant\n"
RESULT = "<|im_end|>\n<|im_start|>user\n<tool_response>dry</tool_response><|im_end|>\n" + ASKS


def test_a_template_that_removes_reasoning_trains_each_answer_in_its_own_context():
    assert sequences(QWEN3_LIKE) == [
        QWEN3_HEAD + ASKS + f"⟦<think>\nLook.\n</think>\n{CALL_WRITTEN}<|im_end|>⟧\n",
        QWEN3_HEAD + ASKS + f"<think>\nLook.\n</think>\n{CALL_WRITTEN}" + RESULT
        + "⟦<think>\nSo no.\n</think>\nNo.<|im_end|>⟧\n",
        QWEN3_HEAD + ASKS + CALL_WRITTEN + RESULT + "No.<|im_end|>\n<|im_start|>user\nNow?<|im_end|>\n"
        + ASKS + "⟦<think>\n\n</think>\nYes.<|im_end|>⟧\n",
    ]  # fmt: skip


def test_one_exchange_with_several_calls_is_one_sequence():
    (text,) = sequences(QWEN3_LIKE, {**TALK, "messages": MESSAGES})
    assert text == (
        QWEN3_HEAD + ASKS + f"⟦<think>\nLook.\n</think>\n{CALL_WRITTEN}<|im_end|>⟧" + RESULT.removeprefix("<|im_end|>")
        + "⟦<think>\nSo no.\n</think>\nNo.<|im_end|>⟧\n"
    )  # fmt: skip


def test_a_template_that_marks_its_answers_trains_calls_and_reasoning():
    """The template calls the reasoning of the record by another name."""
    (text,) = sequences(SMOLLM3_LIKE)
    assert text == (
        f"<|im_start|>system\n### Tools\n{TOOLS_WRITTEN}\n<|im_end|>\n<|im_start|>user\nRain?<|im_end|>\n"
        f"{ASKS}⟦<think>\nLook.\n</think>\n{CALL_WRITTEN}<|im_end|>⟧\n<|im_start|>tool\ndry<|im_end|>\n"
        f"{ASKS}⟦<think>\nSo no.\n</think>\nNo.<|im_end|>⟧\n<|im_start|>user\nNow?<|im_end|>\n{ASKS}⟦Yes.<|im_end|>⟧\n"
    )


@pytest.mark.parametrize(
    "name", ["qwen2_5", "qwen3", "qwen3_training", "qwen3_5_think", "llama3_1", "lfm2_2_5", "qwen3_instruct_2507"]
)
def test_published_templates_train_what_transformers_renders(name):
    chosen = chat_tokenizer(getattr(trl_templates, f"{name}_chat_template"))
    chat = TextChat(chosen)
    messages = [{key: value for key, value in each.items() if key != "reasoning_content"} for each in MESSAGES]
    record = {"tools": TOOLS, "messages": messages}
    work = TextChatWork(chat, 4096, [None])
    units = work.prepare(0, "", adapt(record, PLACE)).units
    rendered = chosen.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    assert chosen.decode(units[-1].input_ids) == rendered
    trained = [chosen.decode([each for each in unit.labels if each != IGNORE_INDEX]) for unit in units]
    assert "weather" in "".join(trained) and "Rome" in "".join(trained) and "No." in trained[-1]
    assert "dry" not in "".join(trained) and "Rain" not in "".join(trained) and "properties" not in "".join(trained)


def test_the_example_of_the_documentation_is_trained():
    (block,) = blocks("records", "json")
    record = json.loads(block)
    (text,) = sequences(QWEN3_LIKE, record)
    assert f"⟦<think>\nI must look.\n</think>\n{CALL_WRITTEN}<|im_end|>⟧" in text and text.count("⟦") == 2


def test_the_forms_of_tools_and_calls_are_one():
    expected = adapt(TALK, PLACE)
    for empty in ("", " ", None):
        call = {"function": {"name": "weather", "arguments": empty}}
        assert checked_call(call, 1, "here")["function"].get("arguments") is None
    as_text = {**CALL, "function": {**CALL["function"], "arguments": '{"city": "Rome"}'}}
    filled = {**CALL, "index": None, "function": {**CALL["function"], "arguments": {"city": "Rome", "day": None}}}
    for tools in (TOOLS, json.dumps(TOOLS), [{**TOOLS[0], "strict": None}]):
        for calls in ([CALL], [as_text], json.dumps([CALL]), [filled]):
            messages = [dict(each) for each in TALK["messages"]]
            messages[1]["tool_calls"] = calls
            assert adapt({"tools": tools, "messages": messages}, PLACE) == expected
            assert adapt({"tools": tools, "conversations": messages}, PLACE) == expected
            del messages[1]["content"]
            assert (
                adapt({"tools": tools, "messages": json.dumps(messages)}, PLACE).messages == expected.messages
                or filled in calls
            )
    names = {"user": "human", "assistant": "gpt", "tool": "tool"}
    turns = [{**each, "from": names[each["role"]], "value": each.get("content")} for each in TALK["messages"]]
    turns = [{key: value for key, value in each.items() if key not in ("role", "content")} for each in turns]
    said = adapt({"tools": TOOLS, "conversations": turns}, PLACE)
    assert (said.tools, [each.fields for each in said.messages]) == (
        expected.tools, [each.fields for each in expected.messages],
    )  # fmt: skip
    assert said.ignored == expected.ignored == ()
    null = json.dumps([{"function": {"name": "weather", "arguments": {"day": None}}}])
    assert adapt(only(tool_calls=null), PLACE).messages[1].fields["tool_calls"][0]["function"]["arguments"] == {
        "day": None
    }


def test_ignored_fields_leave_the_rest_to_be_trained(tmp_path):
    path = tmp_path / "rows.jsonl"
    messages = [{**each, "content": each["content"] or ""} for each in TALK["messages"]]
    path.write_text(json.dumps({**TALK, "messages": messages}) + "\n")
    arguments = DataArguments(data=str(path), ignore_fields=["tools", "tool_calls", "reasoning_content"])
    (conversation,) = open_data(arguments, 0).conversations()
    assert [message.is_learned for message in conversation.messages] == [False, False, False, True, False, True]
    assert not conversation.tools


@pytest.mark.parametrize("form", ["llava", "parquet"])
def test_prepared_files_keep_the_fields(tmp_path, form):
    path = tmp_path / "rows.jsonl"
    arguments = json.dumps({"city": "Rome", "day": None})
    calls = [{"id": "c1", "function": {"name": "weather", "arguments": arguments}}]
    messages = [dict(each) for each in TALK["messages"]]
    messages[1]["tool_calls"] = calls
    path.write_text(json.dumps({**TALK, "messages": messages}) + "\n")
    (before,) = open_data(DataArguments(data=str(path)), 0).conversations()
    prepare(open_data(DataArguments(data=str(path)), 0), tmp_path / "out", form=form)
    source, reader = MixtureEntry(str(tmp_path / "out")).open()
    ((where, record),) = source.read_block(0)
    after = reader(where, record)
    assert [message.fields for message in after.messages] == [message.fields for message in before.messages]
    assert (
        after.tools == before.tools
        and before.messages[1].fields["tool_calls"][0]["function"]["arguments"]["day"] is None
    )


def preference(chosen, rejected):
    return {"tools": TOOLS, "prompt": MESSAGES[:1], "chosen": [chosen], "rejected": [rejected]}


def test_preferences_between_a_call_and_an_answer():
    chosen = chat_tokenizer(QWEN3_LIKE)
    pair = preference_of("a:1", preference(MESSAGES[1], {"role": "assistant", "content": "No."}), chats=True)
    ids = PreferenceEncoder(chosen, 1000).encode("a:1", pair)
    assert chosen.decode(ids["prompt_ids"]) == QWEN3_HEAD + ASKS
    assert chosen.decode(ids["chosen_ids"]) == f"<think>\nLook.\n</think>\n{CALL_WRITTEN}<|im_end|>"
    assert chosen.decode(ids["rejected_ids"]) == "<think>\n\n</think>\nNo.<|im_end|>"
    after = {**preference(MESSAGES[3], {"role": "assistant", "content": "Yes."}), "prompt": MESSAGES[:3]}
    ids = PreferenceEncoder(chosen, 1000).encode("a:1", preference_of("a:1", after, chats=True))
    assert chosen.decode(ids["prompt_ids"]).endswith("<tool_response>dry</tool_response><|im_end|>\n" + ASKS)
    assert chosen.decode(ids["chosen_ids"]) == "<think>\nSo no.\n</think>\nNo.<|im_end|>"


def test_preferences_with_a_field_that_the_template_does_not_write_are_refused():
    encoder = PreferenceEncoder(chat_tokenizer(CHATML), 1000)
    with pytest.raises(
        SampleError, match=r"message 2 has 'reasoning_content', .*ignore_fields: \[reasoning_content\]"
    ):
        record = {
            "prompt": MESSAGES[:1],
            "chosen": [MESSAGES[3]],
            "rejected": [{"role": "assistant", "content": "Yes."}],
        }
        encoder.encode("a:1", preference_of("a:1", record, chats=True))
    with pytest.raises(SampleError, match="has 'tools', but the model has no chat template"):
        preference_of("a:1", {"tools": TOOLS, "prompt": "a", "chosen": "b", "rejected": "c"}, chats=False)


REMOVES_REASONING = SMOLLM3_LIKE.replace(
    "{% if m.reasoning %}", "{% if m.reasoning and loop.index0 + 2 > messages | length %}"
)


def test_marked_answers_that_a_template_rewrites_are_trained_each_in_their_own_context():
    messages = [MESSAGES[0], MESSAGES[3], TALK["messages"][4], {**YES, "thinking": "Look."}]
    first, second = sequences(REMOVES_REASONING, {"messages": messages})
    assert first.endswith(f"{ASKS}⟦<think>\nSo no.\n</think>\nNo.<|im_end|>⟧\n")
    assert f"{ASKS}No.<|im_end|>" in second and second.endswith(f"{ASKS}⟦<think>\nLook.\n</think>\nYes.<|im_end|>⟧\n")
    marks = build_processor(chat_template=REMOVES_REASONING.replace("<|im_end|>", "<end_of_utterance>"))
    mask = marks.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert sum(mask["assistant_masks"]) > 0, "a mask is what the template marks, as in transformers"
