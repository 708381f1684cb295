"""A conversation → a record in LLaVA's or the messages shape that our adapters read as the same conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, Message, Part, SampleError, TextPart
from smol_hf.data.records import Place, adapt
from smol_hf.data.records.ratings import ratings_record

LLAVA_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}  # of other formats: the format's name


@dataclass(frozen=True)
class Encoded:
    """The encoded bytes of an image, and the format in its header."""

    content: bytes
    format: str

    @cached_property
    def name(self) -> str:
        """Name of its file, from its content, so that equal images share a file."""
        digest = hashlib.sha256(self.content).hexdigest()[:32]
        return f"{digest}.{SUFFIXES.get(self.format, self.format.lower())}"


def llava_record(conversation: Conversation, paths: Sequence[str]) -> dict[str, Any]:
    """Return a record in LLaVA's shape.

    {"id", "image"?: path or list of paths, "conversations": [{"from", "value", "train"?, …}, …], "source"?,
    "turn_ratings"?, "tools"?}.
    """
    turns = [
        {"from": LLAVA_ROLES[message.role], "value": llava_text(message.parts), **further(message)}
        for message in conversation.messages
    ]
    image = {"image": paths[0] if len(paths) == 1 else list(paths)} if paths else {}
    return {"id": conversation.sample_id, **image, "conversations": turns, **record_labels(conversation)}


def llava_text(parts: Sequence[Part]) -> str:
    """Return the texts with `<image>` for each image.

    It is on its own line if it is before the first or after the last text, or next to a line break of a text.
    """
    texts = [index for index, part in enumerate(parts) if isinstance(part, TextPart)]
    first, last = (texts[0], texts[-1]) if texts else (len(parts), -1)
    result = ""
    for index, part in enumerate(parts):
        own = part.text if isinstance(part, TextPart) else "<image>"
        kinds = {type(each) for each in parts[max(index - 1, 0) : index + 1]}
        if index and TextPart not in kinds:
            result += "\n"
        elif len(kinds) > 1:  # a text next to an image
            on_its_own = index <= first or index > last
            result += "\n" if on_its_own or result.endswith("\n") or own.startswith("\n") else ""
        result += own
    return result


def messages_record(conversation: Conversation, paths: Sequence[str] | None = None) -> dict[str, Any]:
    """{"id", "messages": [{"role", "content": [part, …], "train"?, …}, …], "source"?, "turn_ratings"?, "tools"?}.

    An image part names its path; without `paths` it is the next image of the record.
    """
    names = iter(paths or ())
    messages = []
    for message in conversation.messages:
        content = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            else:
                content.append({"type": "image", **({} if paths is None else {"image": next(names)})})
        messages.append({"role": message.role, "content": content, **further(message)})
    return {"id": conversation.sample_id, "messages": messages, **record_labels(conversation)}


def further(message: Message) -> dict[str, Any]:
    """Return the other keys of a turn. Nested values are JSON text, in which null stays null."""
    fields = {key: each if isinstance(each, str) else as_json(each) for key, each in message.fields.items()}
    return fields if message.trained else {**fields, "train": False}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def record_labels(conversation: Conversation) -> dict[str, Any]:
    given = {"source": conversation.source, "turn_ratings": ratings_record(conversation.turn_ratings)}
    if conversation.tools:
        given["tools"] = as_json(conversation.tools)
    return {name: value for name, value in given.items() if value}


def reads_back(record: dict[str, Any], conversation: Conversation, images: Sequence[ImagePart]) -> bool:
    """Return True if our adapters read the record as this conversation, with `images` as its images."""
    shown = iter(images)
    messages = tuple(
        replace(message, parts=tuple(part if isinstance(part, TextPart) else next(shown) for part in message.parts))
        for message in conversation.messages
    )
    try:
        return adapt(record, Place(conversation.sample_id, Path())) == replace(conversation, messages=messages)
    except SampleError:
        return False
