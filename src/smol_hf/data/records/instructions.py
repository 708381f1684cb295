"""Records of a few texts: those of Alpaca, Dolly, TRL and plain tables, and plain texts.

alpaca             {"instruction": text, "input"?: text, "output": text, …}
prompt_completion  {"prompt": text or messages, "completion": text or messages}
question_answer    {"question": text, "answer": text}
plain_text         {"text": text}: a document without turns, trained as in pretraining
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from smol_hf.data.conversation import DOCUMENT, Conversation, Message, TextPart
from smol_hf.data.records.dialogue import messages_in
from smol_hf.data.records.fields import Fields, checked_text, label, list_of_objects
from smol_hf.data.records.messages import CONVERSATIONS, OTHER_FIELDS, conversation_of, is_conversation
from smol_hf.data.records.registry import Place, adapter
from smol_hf.data.records.turn_keys import MEDIA_KEYS, TRAIN_KEYS, is_given

INPUTS, OUTPUTS = ("input", "context"), ("output", "response")
# A text with one of these is a part of something else.
OTHER_TEXTS = (
    *CONVERSATIONS, "prompt", "completion", "question", "answer", "answers", "instruction", *OUTPUTS, "caption",
    "captions", "chosen", "rejected", "image_url",
)  # fmt: skip


def is_alpaca(record: dict[str, Any]) -> bool:
    has_output = any(record.get(key) is not None for key in OUTPUTS)
    return record.get("instruction") is not None and has_output and not is_conversation(record)


@adapter("alpaca", shape=is_alpaca, fields=("instruction", *INPUTS, *OUTPUTS, "history", *OTHER_FIELDS))
def read_alpaca(record: dict[str, Any], place: Place) -> Conversation:
    """Instructions, some with an input, and their outputs."""
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
    """Return the key with a value, if any. Raises SampleError for several."""
    given = [key for key in keys if is_given(fields.values.get(key))]
    given = given or [key for key in keys if fields.values.get(key) is not None]
    if len(given) > 1:
        raise fields.fault(f"has both {' and '.join(map(repr, given))}: keep one")
    return given[0] if given else None


def history_of(fields: Fields) -> list[tuple[str, ...]]:
    """Return the earlier questions and answers."""
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


def is_prompt_and_completion(record: dict[str, Any]) -> bool:
    return all(record.get(key) is not None for key in ("prompt", "completion")) and not is_conversation(record)


@adapter("prompt_completion", shape=is_prompt_and_completion, fields=("prompt", "completion", *OTHER_FIELDS))
def read_prompt_completion(record: dict[str, Any], place: Place) -> Conversation:
    """Prompts and completions, each a text or chat messages."""
    fields = Fields(record, place, "prompt_completion")
    prompt = side_of_pair(fields, "prompt", "user")
    marks = tuple(f"prompt[].{key}" for key in TRAIN_KEYS if any(turn.get(key) for turn in prompt))
    unmarked = [{key: turn[key] for key in turn if key not in TRAIN_KEYS} for turn in prompt]
    turns = [{**turn, "train": False} for turn in unmarked] + side_of_pair(fields, "completion", "assistant")
    conversation = conversation_of(record, turns, "prompt_completion", place)
    return replace(conversation, ignored=(*conversation.ignored, *marks))


def side_of_pair(fields: Fields, key: str, role: str) -> list[dict[str, Any]]:
    value = messages_in(fields.given(key), first=None if role == "user" else role)
    if isinstance(value, str):
        return [{"role": role, "content": fields.text(key)}]
    return list_of_objects(value, key, fields.place.where)


def is_question_and_answer(record: dict[str, Any]) -> bool:
    return all(record.get(key) is not None for key in ("question", "answer")) and not is_conversation(record)


@adapter("question_answer", shape=is_question_and_answer, fields=("question", "answer", *OTHER_FIELDS))
def read_question_answer(record: dict[str, Any], place: Place) -> Conversation:
    """Questions and answers, with or without images."""
    fields = Fields(record, place, "question_answer")
    turns = [
        {"role": "user", "content": fields.text("question")},
        {"role": "assistant", "content": fields.text("answer")},
    ]
    return conversation_of(record, turns, "question_answer", place)


def is_plain_text(record: dict[str, Any]) -> bool:
    """Return True for a text without turns and media. With an `image` that is null, it is a caption without image."""
    has = {key for key, value in record.items() if value is not None}
    shows = any(key in record for key in ("image", "video")) or any(is_given(record.get(key)) for key in MEDIA_KEYS)
    return "text" in has and not shows and has.isdisjoint(OTHER_TEXTS)


@adapter("plain_text", shape=is_plain_text, fields=("text", "source", *MEDIA_KEYS))
def read_plain_text(record: dict[str, Any], place: Place) -> Conversation:
    """Plain texts without turns, trained as in pretraining."""
    fields = Fields(record, place, "plain_text")
    text = fields.text("text")
    if any(is_given(record.get(key)) for key in MEDIA_KEYS):
        raise fields.fault("is a plain text with an image or a video: write messages or a caption")
    if not text.strip():
        raise fields.fault("its text is empty: remove the record")
    return Conversation(place.where, (Message(DOCUMENT, (TextPart(text),)),), label(record, "source"))
