"""A record of preferences → a prompt, a preferred answer and a rejected one.

{"prompt"?: text | [message, …], "system"?: text, "tools"?: [tool, …], "chosen": answer, "rejected": answer}, where an
answer is a text, a message, or a list of messages. A message or a list may be a JSON string.

As lists of messages, `chosen` and `rejected` hold only the answers, or whole conversations that differ in their last
message (UltraFeedback's form, where `prompt` repeats the user's message). Texts are one exchange if the model has a
chat template, and otherwise a text and two continuations. Texts without a prompt are transcripts of `Human:` and
`Assistant:` (HH-RLHF's form). The prompt may also be under `question`, `instruction` with `input`, `conversations` or
`messages`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.dialogue import messages_in, needed, role_of, text_of
from smol_hf.data.records.fields import checked_text, list_of_objects
from smol_hf.data.records.media import is_none
from smol_hf.data.records.tools import tools_of, turn_fields, with_content
from smol_hf.data.records.turn_keys import (
    IDENTIFIERS,
    MEDIA_KEYS,
    SYSTEM_KEYS,
    TRAIN_KEYS,
    UNSUPPORTED_RECORD,
    ignored_turn_keys,
    is_given,
    is_trained,
    meant,
    refuse_unsupported_record,
    system_text,
)

ANSWERS = ("chosen", "rejected")
PROMPTS = ("prompt", "question", "instruction", "conversations", "messages")
MESSAGES = (*ANSWERS, "prompt", "conversations", "messages")  # may hold messages, also as a JSON string
MEDIA = (*MEDIA_KEYS, "audio")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
DEMANDED = "chosen and rejected must be two texts with a prompt, or two lists of messages"
TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


@dataclass(frozen=True)
class Preference:
    """One pair.

    Attributes:
        prompt: chat messages that end with one of the user or a tool, or the text to be continued.
        ignored: names of unused fields with a value.
        chosen_fields, rejected_fields: further keys of the answers for the chat template, such as `tool_calls`.
        tools: definitions of tools for the chat template.
    """

    prompt: list[dict[str, Any]] | str
    chosen: str
    rejected: str
    ignored: tuple[str, ...] = ()
    chosen_fields: dict[str, Any] = field(default_factory=dict)
    rejected_fields: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()


def preference_of(where: str, record: Any, chats: bool) -> Preference:
    """Read the pair of a record.

    Args:
        chats: whether the model has a chat template, so that texts are messages of a user and an assistant.

    Raises:
        SampleError: for a record that is incomplete, contradictory or without a preference, or that DPO cannot use.
    """
    if not isinstance(record, dict):
        raise SampleError(where, f"a record is a JSON object, not {type(record).__name__}")
    for name in ANSWERS:
        if record.get(name) is None:
            raise SampleError(where, f"needs the keys 'chosen' and 'rejected'; it has {sorted(map(str, record))}")
    refuse_unsupported_record({key: value for key, value in record.items() if key != "tools"}, where)
    for name, value in record.items():
        is_text = isinstance(value, (bool, int, float)) or is_none(value)
        if not is_text and (name in MEDIA or meant(str(name), MEDIA_KEYS)):
            raise SampleError(
                where, f"has {name!r}, but DPO learns from texts only: remove it, or train without it "
                f"(ignore_fields: [{name}])"
            )  # fmt: skip
    record = {key: messages_in(value) if key in MESSAGES else value for key, value in record.items()}
    chosen, rejected = ([record[name]] if isinstance(record[name], dict) else record[name] for name in ANSWERS)
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, used = prompt_of(where, record, answers_only=True)
        if prompt is None and all(TRANSCRIPT.match(answer.lstrip("\n")) for answer in (chosen, rejected)):
            pair = of_transcripts(where, chosen, rejected, chats)
        elif prompt is None:
            raise SampleError(where, DEMANDED)
        elif isinstance(prompt, str):
            pair = Preference([{"role": "user", "content": prompt}] if chats else prompt, chosen, rejected)
        else:
            pair = Preference(messages_of(prompt, used[0], where), chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        prompt, used = prompt_of(where, record, answers_only=len(chosen) == len(rejected) == 1)
        messages = (answer_messages(*each, where) for each in zip((chosen, rejected), ANSWERS))
        pair = of_conversations(where, prompt, *messages)
    else:
        raise SampleError(where, DEMANDED)
    pair = replace(with_system(where, pair, record), tools=tools_of(record, where))
    check(where, pair)
    return replace(pair, ignored=ignored_of(record, used))


def prompt_of(where: str, record: dict, answers_only: bool) -> tuple[Any, tuple[str, ...]]:
    """Return the prompt or None, and the keys that it was read from.

    Args:
        answers_only: the answers do not hold the conversation, so the prompt may be under other keys than `prompt`.
    """
    given = [name for name in (PROMPTS if answers_only else PROMPTS[:1]) if record.get(name) is not None]
    if not given:
        return None, ()
    key = given[0]
    if key == "prompt":
        return record[key], (key,)
    if len(given) > 1:
        raise SampleError(where, f"has a prompt under {' and '.join(map(repr, given))}: keep one")
    if key in MESSAGES:
        return list_of_objects(record[key], key, where), (key,)
    if key == "instruction" and is_given(record.get("input")):
        texts = (checked_text(record[name], where, f"the field {name!r}") for name in (key, "input"))
        return "\n\n".join(texts), (key, "input")
    return record[key], (key, "input") if key == "instruction" else (key,)


def of_transcripts(where: str, chosen: str, rejected: str, chats: bool) -> Preference:
    """Read two transcripts that differ in the last answer."""
    if not chats:
        ends = [last_answer(where, text) for text in (chosen, rejected)]
        if chosen[: ends[0]] != rejected[: ends[1]]:
            raise SampleError(where, "chosen and rejected must be the same except for their last answer")
        return Preference(chosen[: ends[0]], chosen[ends[0] :], rejected[ends[1] :])
    talks = []
    for text in (chosen, rejected):
        _, *pieces = TRANSCRIPT.split(text.lstrip("\n"))
        turns = zip(pieces[::2], pieces[1::2])
        talks.append([{"role": SPEAKERS[speaker], "content": said.strip()} for speaker, said in turns])
    return of_conversations(where, None, *talks)


def last_answer(where: str, transcript: str) -> int:
    """Return the position after the last "Assistant:" that begins a turn."""
    stripped = transcript.lstrip("\n")
    *_, last = TRANSCRIPT.finditer(stripped)
    if last[1] != "Assistant":
        raise SampleError(where, "chosen and rejected must end with a message of the assistant")
    return len(transcript) - len(stripped) + last.end(1) + len(":")


def answer_messages(answer: list, name: str, where: str) -> list[dict[str, Any]]:
    """Read the messages under `chosen` or `rejected`; the last one is learned."""
    messages = messages_of(answer, name, where)
    if not is_trained(answer[-1], messages[-1]["role"], len(messages), where):
        raise SampleError(where, f"{name} is marked as not trained: remove the record")
    return messages


def with_system(where: str, pair: Preference, record: dict) -> Preference:
    """Add the system prompt of a column. Raises SampleError if it contradicts the messages."""
    text = system_text(record, where)
    if text is None:
        return pair
    if isinstance(pair.prompt, str):
        raise SampleError(where, "has a system prompt, but the model has no chat template: name one (chat_template)")
    if pair.prompt and pair.prompt[0]["role"] == "system":
        if pair.prompt[0]["content"] != text:
            raise SampleError(where, "has a system prompt in a column and another one in its messages: keep one")
        return pair
    text = checked_text(text, where, "the system prompt")
    return replace(pair, prompt=[{"role": "system", "content": text}, *pair.prompt])


def ignored_of(record: dict, used: tuple[str, ...]) -> tuple[str, ...]:
    """Return the unused fields of a record and its turns that have a value."""
    known = {*ANSWERS, *used, *SYSTEM_KEYS, *IDENTIFIERS, *UNSUPPORTED_RECORD, *MEDIA}
    ignored = tuple(str(key) for key, value in record.items() if key not in known and is_given(value))
    for name in dict.fromkeys((*used, *ANSWERS)):
        turns = [record[name]] if isinstance(record.get(name), dict) else record.get(name)
        if isinstance(turns, list):
            ignored += ignored_turn_keys(turns, ("role", "content", "from", "value", *TRAIN_KEYS), name)
    return ignored


def of_conversations(where: str, prompt: Any, chosen: list[dict], rejected: list[dict]) -> Preference:
    """Build the pair of two conversations. Raises SampleError if they differ before the last message."""
    before = chosen[:-1]
    if before != rejected[:-1]:
        raise SampleError(where, "chosen and rejected must be the same except for their last message")
    if any(messages[-1]["role"] != "assistant" for messages in (chosen, rejected)):
        raise SampleError(where, "chosen and rejected must end with a message of the assistant")
    if isinstance(prompt, str):
        asked = [message["content"] for message in before if message["role"] == "user"]
        if before and prompt not in asked:
            raise SampleError(where, "the prompt is not a message of the user in chosen")
        before = before or [{"role": "user", "content": prompt}]
    elif prompt is not None:
        prompt = messages_of(prompt, "prompt", where)
        if before and before[: len(prompt)] != prompt:
            raise SampleError(where, "chosen begins differently from the prompt")
        before = before or prompt
    good, bad = chosen[-1], rejected[-1]
    good_fields, bad_fields = (
        {key: value for key, value in answer.items() if key not in ("role", "content")} for answer in (good, bad)
    )
    return Preference(before, good["content"], bad["content"], chosen_fields=good_fields, rejected_fields=bad_fields)


def messages_of(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Read messages of a role and a text each, with further keys for the chat template. Raises SampleError."""
    turns = list_of_objects(value, key, where)
    try:
        return [message_of(turn, number, where) for number, turn in enumerate(turns, start=1)]
    except SampleError as error:
        raise SampleError(where, f"{key}, {error.problem}") from error


def message_of(turn: dict, number: int, where: str) -> dict[str, Any]:
    keys = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role, content = role_of(turn, keys[0], number, where), needed(with_content(turn, keys[1]), keys[1], number, where)
    fields = turn_fields(turn, role, number, where)
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any(part.get("type") != "text" for part in content):
            raise SampleError(where, f"message {number}: {keys[1]!r} must be text: DPO learns from texts only")
        content = "".join(text_of(part, "text", number, where) for part in content)
    return {"role": role, "content": checked_text(content, where, f"message {number}: {keys[1]!r}"), **fields}


def check(where: str, pair: Preference) -> None:
    """Raise SampleError for an empty part, a prompt of the assistant, or equal answers."""
    if not pair.prompt or (isinstance(pair.prompt, str) and not pair.prompt.strip()):
        raise SampleError(where, "the prompt is empty")
    if not isinstance(pair.prompt, str) and pair.prompt[-1]["role"] not in ("user", "tool"):
        raise SampleError(where, f"the prompt must end with the user, not with the {pair.prompt[-1]['role']}")
    if isinstance(pair.prompt, str) and pair.tools:
        raise SampleError(where, "has 'tools', but the model has no chat template: name one (chat_template)")
    for name in ANSWERS:
        if not getattr(pair, name).strip() and not getattr(pair, f"{name}_fields"):
            raise SampleError(where, f"{name} is empty")
    if pair.chosen.strip() == pair.rejected.strip() and pair.chosen_fields == pair.rejected_fields:
        raise SampleError(where, "chosen and rejected are the same: remove the record")
