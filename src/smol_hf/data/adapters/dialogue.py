"""Turns of a record → messages, and media put where a turn shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from smol_hf.data.adapters.fields import checked_text
from smol_hf.data.adapters.media import Media
from smol_hf.data.conversation import ROLES, Message, Part, SampleError, TextPart

PLACEHOLDERS = {"<image>": "images", "<video>": "videos"}
ROLE_NAMES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def said(role: str, *parts: Part | str) -> Message:
    """A message of these parts; text may be given as it is, and empty text is no part."""
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts if part != ""))


def list_of_objects(value: Any, key: str, where: str) -> list[dict]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise SampleError(where, f"{key} must be a list of objects and not be empty")
    return value


def needed(turn: dict, key: str, number: int, where: str) -> Any:
    if key not in turn:
        raise SampleError(where, f"message {number} lacks the key {key!r}; it has {sorted(map(str, turn))}")
    return turn[key]


def role_of(turn: dict, key: str, number: int, where: str) -> str:
    value = needed(turn, key, number, where)
    role = ROLE_NAMES.get(value) if isinstance(value, str) else None
    if role is None:
        raise SampleError(where, f"message {number} has the unknown role {value!r}: use one of {', '.join(ROLES)}")
    return role


def text_of(turn: dict, key: str, number: int, where: str) -> str:
    return checked_text(needed(turn, key, number, where), where, f"message {number}: {key!r}")


def is_marked(turns: list[tuple[str, str]], placeholders: Iterable[str]) -> bool:
    """Whether any of the placeholders stands in what a user says."""
    return any(placeholder in text for role, text in turns if role == "user" for placeholder in placeholders)


def place_media(turns: list[tuple[str, str]], waiting: dict[str, list[Media]], where: str) -> list[Message]:
    """Cut user texts at each placeholder and put the media there, in order.

    Args:
        turns: (role, text) of each message. What others than users say keeps its characters.
        waiting: for each placeholder the media that it stands for; two placeholders may share one list.

    Raises:
        SampleError: when there are more or fewer placeholders than media.
    """
    for media in waiting.values():
        sharing = [placeholder for placeholder in waiting if waiting[placeholder] is media]
        shown = sum(text.count(placeholder) for role, text in turns if role == "user" for placeholder in sharing)
        if shown != len(media):
            kinds = " or ".join(PLACEHOLDERS[placeholder] for placeholder in sharing)
            raise SampleError(
                where,
                f"{shown} {' or '.join(sharing)} placeholders but {len(media)} {kinds}: write one where each "
                "belongs (to have these characters as text, use messages with typed parts)",
            )
    iterators = {id(media): iter(media) for media in waiting.values()}
    messages = []
    for role, text in turns:
        pieces = re.split(f"({'|'.join(waiting)})", text) if role == "user" and waiting else [text]
        parts: list[Part | str] = []
        for position, piece in enumerate(pieces):
            if position % 2:
                parts.append(next(iterators[id(waiting[piece])]))
                continue
            # LLaVA writes the placeholder on a line of its own; that line break is no text of the user's.
            piece = piece.removeprefix("\n") if position else piece
            parts.append(piece.removesuffix("\n") if position < len(pieces) - 1 else piece)
        messages.append(said(role, *parts))
    return messages


def media_first(messages: list[Message], media: list[Media], where: str) -> list[Message]:
    """Media that no text mentions stand before the first words of the user."""
    if not media:
        return messages
    for index, message in enumerate(messages):
        if message.role == "user":
            return [*messages[:index], Message("user", (*media, *message.parts)), *messages[index + 1 :]]
    raise SampleError(where, f"{len(media)} images or videos but no user turn to show them in")
