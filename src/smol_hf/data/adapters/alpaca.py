"""Instructions in the shape of Alpaca and Dolly.

{"instruction": text, "input" | "context"?: text, "output" | "response": text, "history"?: [[question, answer], …]}

The input follows the instruction after an empty line; the history comes first.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.fields import Fields, checked_text
from smol_hf.data.adapters.messages import BESIDE, conversation_of, is_conversation
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.adapters.turn_keys import is_given
from smol_hf.data.conversation import Conversation

INPUTS, OUTPUTS = ("input", "context"), ("output", "response")


def is_alpaca(record: dict[str, Any]) -> bool:
    has_output = any(record.get(key) is not None for key in OUTPUTS)
    return record.get("instruction") is not None and has_output and not is_conversation(record)


@adapter("alpaca", shape=is_alpaca, fields=("instruction", *INPUTS, *OUTPUTS, "history", *BESIDE))
def read_alpaca(record: dict[str, Any], place: Place) -> Conversation:
    """An instruction, perhaps with an input, and its output."""
    fields = Fields(record, place, "alpaca")
    question, given, answer = fields.text("instruction"), one_of(fields, INPUTS), one_of(fields, OUTPUTS)
    if answer is None:
        raise fields.lacking("'output' or 'response'")
    if given is not None and is_given(record[given]):
        question = f"{question}\n\n{fields.text(given)}"
    turns = [*history_of(fields), (question, fields.text(answer))]
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]
    return conversation_of(record, messages, "alpaca", place)


def one_of(fields: Fields, keys: tuple[str, ...]) -> str | None:
    """The key that holds a value. Raises SampleError where several do."""
    given = [key for key in keys if is_given(fields.values.get(key))]
    given = given or [key for key in keys if fields.values.get(key) is not None]
    if len(given) > 1:
        raise fields.fault(f"has both {' and '.join(map(repr, given))}: keep one")
    return given[0] if given else None


def history_of(fields: Fields) -> list[tuple[str, str]]:
    """The earlier questions and answers."""
    history = fields.values.get("history")
    if not is_given(history):
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise fields.fault("the field 'history' must be a list of pairs of a question and an answer")
    where = fields.place.where
    return [
        tuple(checked_text(text, where, f"the field 'history[{number}]'") for text in pair)
        for number, pair in enumerate(history)
    ]
