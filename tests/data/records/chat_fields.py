"""Conversations with tools, tool calls and reasoning."""

from chat_models import chat_tokenizer

from smol_hf.data.records import Place, adapt
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.chat import TextChat, TextChatWork

PLACE = Place("rows.jsonl:1")
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
MESSAGES = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "reasoning_content": "Look.", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "dry"},
    {"role": "assistant", "reasoning_content": "So no.", "content": "No."},
]
YES = {"role": "assistant", "content": "Yes."}
TALK = {"tools": TOOLS, "messages": [*MESSAGES, {"role": "user", "content": "Now?"}, YES]}


def marked(tokenizer, input_ids, labels):
    """The text of a sequence, with what is labelled between ⟦ and ⟧."""
    text, inside = "", False
    for token, label in zip(input_ids, labels):
        if (label != IGNORE_INDEX) != inside:
            inside = not inside
            text += "⟦" if inside else "⟧"
        text += tokenizer.decode([token])
    return text + ("⟧" if inside else "")


def sequences(template, record=TALK):
    work = TextChatWork(TextChat(chat_tokenizer(template)), 4096, [None])
    units = work.prepare(0, "", adapt(record, PLACE)).units
    ready = [work.encode(0, unit) for unit in units]
    assert [len(each.input_ids) for each in ready] == [unit.num_tokens for unit in units]
    return [marked(work.processor.tokenizer, each.input_ids.tolist(), each.labels.tolist()) for each in ready]


def only(**keys):
    return {"messages": [MESSAGES[0], {"role": "assistant", "content": "No.", **keys}]}
