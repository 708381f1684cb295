"""Turns of a record → messages, with the media at their places."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from smol_hf.data.conversation import ROLES, Message, Part, SampleError, TextPart, VideoPart
from smol_hf.data.records.fields import checked_text
from smol_hf.data.records.media import Media
from smol_hf.data.records.tools import turn_fields, with_content
from smol_hf.data.records.turn_keys import (
    SYSTEM_KEYS,
    TOOL_ROLES,
    TRAIN_KEYS,
    ignored_turn_keys,
    is_trained,
    system_text,
)

PLACEHOLDERS = {"<image>": "images", "<video>": "videos"}
ROLE_NAMES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
    **dict.fromkeys(TOOL_ROLES, "tool"),
}  # fmt: skip


class Turn(NamedTuple):
    """A turn with text content."""

    role: str
    text: str
    trained: bool
    fields: dict[str, Any]


def said(role: str, *parts: Part | str, trained: bool = True, fields: dict[str, Any] | None = None) -> Message:
    """Return a message of these parts. A string becomes a `TextPart`; empty strings are dropped."""
    texts = tuple(TextPart(part) if isinstance(part, str) else part for part in parts if part != "")
    return Message(role, texts, trained, fields or {})


def with_system(messages: list[Message], record: dict, where: str) -> list[Message]:
    """Return the messages, after the system prompt of the record's column, if it has one.

    Raises:
        SampleError: for messages that begin with another system prompt.
    """
    text = system_text(record, where) if any(key in record for key in SYSTEM_KEYS) else None
    if text is None:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].parts != (TextPart(text),):
            raise SampleError(where, "has a system prompt in a column and another one in its messages: keep one")
        return messages
    return [said("system", checked_text(text, where, "the system prompt")), *messages]


def messages_in(value: Any, first: str | None = None) -> Any:
    """Return the messages, if `value` is the JSON text of a message or of a list of messages; else `value`.

    They must be objects, at least one with a known `role` or `from`.

    Args:
        first: the required role of the first message, for a text that may be other JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        inside = json.loads(value)
    except (ValueError, RecursionError):
        return value
    turns = inside if isinstance(inside, list) else [inside]
    if not all(isinstance(turn, dict) for turn in turns):
        return value
    named = [turn.get("role", turn.get("from")) for turn in turns]
    roles = [ROLE_NAMES.get(name) if isinstance(name, str) else None for name in named]
    return turns if any(roles) and (first is None or roles[0] == first) else value


def needed(turn: dict, key: str, number: int, where: str) -> Any:
    if key not in turn:
        raise SampleError(where, f"message {number} lacks the key {key!r}; it has {sorted(map(str, turn))}")
    return turn[key]


def role_of(turn: dict, key: str, number: int, where: str) -> str:
    value = turn.get(key)
    role = ROLE_NAMES.get(value) if isinstance(value, str) else None
    if role is None:
        needed(turn, key, number, where)
        raise SampleError(where, f"message {number} has the unknown role {value!r}: use one of {', '.join(ROLES)}")
    return role


def text_of(turn: dict, key: str, number: int, where: str) -> str:
    return checked_text(needed(turn, key, number, where), where, f"message {number}: {key!r}")


def read_turns(turns: list[dict], keys: tuple[str, str], name: str, where: str) -> tuple[list[Turn], tuple[str, ...]]:
    """Read turns with text content. Returns them and the names of their ignored fields.

    Args:
        keys: the keys of the role and of the text.
        name: the field of the turns.

    Raises:
        SampleError: for a missing, wrong or unsupported value.
    """
    result, ignored = [], ()
    role_key, text_key = keys
    if any(turn.keys() - keys for turn in turns):
        ignored = ignored_turn_keys(turns, (*keys, *TRAIN_KEYS), name)
    for number, turn in enumerate(turns, start=1):
        role, fields, trained = role_of(turn, role_key, number, where), {}, True
        if turn.keys() - keys:
            fields = turn_fields(turn, role, number, where)
            trained = is_trained(turn, role, number, where)
            turn = with_content(turn, text_key)
        text = turn[text_key] if text_key in turn else needed(turn, text_key, number, where)
        result.append(Turn(role, checked_text(text, where, f"message {number}: {text_key!r}"), trained, fields))
    return result, ignored


def is_marked(turns: list[Turn], placeholders: Iterable[str]) -> bool:
    """Return True if the text of a user contains one of the placeholders."""
    return any(placeholder in turn.text for turn in turns if turn.role == "user" for placeholder in placeholders)


def waiting_media(record: dict, images: list[Media], videos: list[Media]) -> dict[str, list[Media]]:
    """Return the media of each placeholder. If a record has media of only one kind, both placeholders mean it.

    `<video>` is text in a record without video keys and videos.
    """
    media = images or videos
    waiting = {"<image>": media, "<video>": videos or media}
    if not ("video" in record or "videos" in record or any(isinstance(part, VideoPart) for part in media)):
        del waiting["<video>"]
    return waiting


def place_media(turns: list[Turn], waiting: dict[str, list[Media]], where: str) -> list[Message]:
    """Cut user texts at each placeholder and put the media there, in order. Other roles' texts stay as they are.

    Args:
        waiting: placeholder → its media; two placeholders may share one list.

    Raises:
        SampleError: for more or fewer placeholders than media.
    """
    for media in waiting.values():
        sharing = [placeholder for placeholder in waiting if waiting[placeholder] is media]
        shown = sum(turn.text.count(each) for turn in turns if turn.role == "user" for each in sharing)
        if shown != len(media):
            kinds = " or ".join(PLACEHOLDERS[placeholder] for placeholder in sharing)
            raise SampleError(
                where,
                f"{shown} {' or '.join(sharing)} placeholders but {len(media)} {kinds}: write one where each "
                "belongs (to have these characters as text, use messages with typed parts)",
            )
    iterators = {id(media): iter(media) for media in waiting.values()}
    messages = []
    for role, text, trained, fields in turns:
        pieces = re.split(f"({'|'.join(waiting)})", text) if role == "user" and waiting else [text]
        parts: list[Part] = []
        for position, piece in enumerate(pieces):
            if position % 2:
                parts.append(next(iterators[id(waiting[piece])]))
                continue
            # LLaVA writes the placeholder on a line of its own. That line break is not part of the text.
            piece = piece.removeprefix("\n") if position else piece
            if piece := piece.removesuffix("\n") if position < len(pieces) - 1 else piece:
                parts.append(TextPart(piece))
        messages.append(Message(role, tuple(parts), trained, fields))
    return messages


def media_first(messages: list[Message], media: list[Media], where: str) -> list[Message]:
    """Put media that no text mentions before the first text of the user."""
    if not media:
        return messages
    for index, message in enumerate(messages):
        if message.role == "user":
            return [*messages[:index], replace(message, parts=(*media, *message.parts)), *messages[index + 1 :]]
    raise SampleError(where, f"{len(media)} images or videos but no user turn to show them in")
