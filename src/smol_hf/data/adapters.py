"""A record of a user's file → one `Conversation`. Two shapes are read: LLaVA's and chat messages.

LLaVA:     {"image": path | [paths] | null, "conversations": [{"from": "human" | "gpt" | "system", "value": text}]}
messages:  {"messages": [{"role": …, "content": text | [{"type": "text" | "image", …}]}], "images": [paths]}

In LLaVA's shape, and in messages whose content is plain text beside a list of images, `<image>` in what the user
says marks the place of the next image. In typed parts and in records without images, text is text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smol_hf.data.conversation import ROLES, Conversation, ImagePart, Message, Part, SampleError, TextPart

IMAGE_PLACEHOLDER = "<image>"
ROLE_NAMES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def conversation_from_record(record: Any, where: str, image_folder: Path) -> Conversation:
    """Read a record in whichever of the two shapes it has.

    Args:
        where: file and row, used as `sample_id` and in every message.
        image_folder: folder that relative image paths start from.

    Raises:
        SampleError: naming what is missing or contradictory and how to write it.
    """
    if not isinstance(record, dict):
        raise SampleError(where, f"a record is a JSON object, not {type(record).__name__}")
    if "conversations" in record and "messages" in record:
        raise SampleError(where, "has both 'conversations' and 'messages': keep the one that is meant")
    if "conversations" in record:
        messages = from_llava(record, where, image_folder)
    elif "messages" in record:
        messages = from_messages(record, where, image_folder)
    else:
        raise SampleError(where, f"needs the key 'conversations' or 'messages'; it has {sorted(map(str, record))}")
    if not any(message.role == "assistant" for message in messages):
        raise SampleError(where, "no assistant turn: there is nothing to learn from it")
    return Conversation(where, tuple(messages))


def from_llava(record: dict, where: str, image_folder: Path) -> list[Message]:
    images = images_of_record(record, where, image_folder)
    turns = []
    for number, turn in enumerate(list_of_objects(record["conversations"], "conversations", where), start=1):
        role = role_of(turn, "from", number, where)
        turns.append((role, text_of(turn, "value", number, where)))
    return place_images(turns, images, where)


def from_messages(record: dict, where: str, image_folder: Path) -> list[Message]:
    images = images_of_record(record, where, image_folder)
    turns = list_of_objects(record["messages"], "messages", where)
    if all(isinstance(turn.get("content"), str) for turn in turns):
        texts = [
            (role_of(turn, "role", number, where), text_of(turn, "content", number, where))
            for number, turn in enumerate(turns, start=1)
        ]
        marked = any(IMAGE_PLACEHOLDER in text for role, text in texts if role == "user")
        if images and marked:
            return place_images(texts, images, where)
        messages = [Message(role, (TextPart(text),)) for role, text in texts]
        return images_first(messages, images, where)
    return typed_messages(turns, images, where, image_folder)


def typed_messages(turns: list[dict], images: list[ImagePart], where: str, image_folder: Path) -> list[Message]:
    """Messages of typed parts; an image part names its file, or takes the next of `images`."""
    waiting = iter(images)
    messages, used = [], 0
    for number, turn in enumerate(turns, start=1):
        role = role_of(turn, "role", number, where)
        content = turn.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts: list[Part] = []
        for part in list_of_objects(content, f"content of message {number}", where):
            if part.get("type") == "text":
                parts.append(TextPart(text_of(part, "text", number, where)))
            elif part.get("type") == "image":
                if role != "user":
                    raise SampleError(where, f"message {number} is the {role}'s and shows an image: only users do")
                given = [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
                if len(given) > 1:
                    raise SampleError(where, f"message {number} has an image part with several images: keep one")
                if not given:
                    used += 1
                    image = next(waiting, None)
                    if image is None:
                        raise SampleError(
                            where, f"message {number} shows image {used}, but 'images' has {len(images)}"
                        )
                    parts.append(image)
                else:
                    parts += image_paths(given[0], f"image of message {number}", where, image_folder)
            else:
                raise SampleError(where, f"message {number} has a part of type {part.get('type')!r}: text or image")
        messages.append(Message(role, tuple(parts)))
    if used != len(images):
        raise SampleError(where, f"{len(images)} images, but the messages show {used} of them")
    return messages


def place_images(turns: list[tuple[str, str]], images: list[ImagePart], where: str) -> list[Message]:
    """Cut user texts at each placeholder and put the images there, in order."""
    shown = sum(text.count(IMAGE_PLACEHOLDER) for role, text in turns if role == "user")
    if shown != len(images):
        raise SampleError(
            where,
            f"{shown} {IMAGE_PLACEHOLDER} placeholders but {len(images)} images: write one where each image "
            f"belongs (to have the characters {IMAGE_PLACEHOLDER} as text, use messages with typed parts)",
        )
    waiting = iter(images)
    messages = []
    for role, text in turns:
        parts: list[Part] = []
        pieces = text.split(IMAGE_PLACEHOLDER) if role == "user" else [text]
        for position, piece in enumerate(pieces):
            if position:
                parts.append(next(waiting))
            # LLaVA writes the placeholder on a line of its own; that line break is no text of the user's.
            piece = piece.removeprefix("\n") if position else piece
            piece = piece.removesuffix("\n") if position < len(pieces) - 1 else piece
            if piece:
                parts.append(TextPart(piece))
        messages.append(Message(role, tuple(parts)))
    return messages


def images_first(messages: list[Message], images: list[ImagePart], where: str) -> list[Message]:
    """Images that no text mentions stand before the first words of the user."""
    if not images:
        return messages
    for index, message in enumerate(messages):
        if message.role == "user":
            messages[index] = Message("user", (*images, *message.parts))
            return messages
    raise SampleError(where, f"{len(images)} images but no user turn to show them in")


def images_of_record(record: dict, where: str, image_folder: Path) -> list[ImagePart]:
    """The images under `image` or `images`; both at once would leave the order open."""
    given = [key for key in ("image", "images") if record.get(key) not in (None, [])]
    if len(given) > 1:
        raise SampleError(where, "has images under 'image' and under 'images': keep one of the two")
    return image_paths(record[given[0]], given[0], where, image_folder) if given else []


def image_paths(value: Any, key: str, where: str, image_folder: Path) -> list[ImagePart]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    parts = []
    for item in values:
        if not isinstance(item, str) or not item:
            raise SampleError(where, f"{key} holds {item!r}: it must be the path of a file")
        if "://" in item:
            raise SampleError(where, f"{key} is the address {item}: download it and give the path of the file")
        if "\0" in item or item != item.encode("utf-8", "replace").decode("utf-8"):
            raise SampleError(where, f"{key} holds {item!r}, which cannot be a path")
        parts.append(ImagePart(path=str(image_folder / item)))
    return parts


def list_of_objects(value: Any, key: str, where: str) -> list[dict]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise SampleError(where, f"{key} must be a list of objects and not be empty")
    return value


def role_of(turn: dict, key: str, number: int, where: str) -> str:
    if key not in turn:
        raise SampleError(where, f"message {number} lacks the key {key!r}; it has {sorted(map(str, turn))}")
    role = ROLE_NAMES.get(turn[key]) if isinstance(turn[key], str) else None
    if role is None:
        raise SampleError(where, f"message {number} has the unknown role {turn[key]!r}: use one of {', '.join(ROLES)}")
    return role


def text_of(turn: dict, key: str, number: int, where: str) -> str:
    if key not in turn:
        raise SampleError(where, f"message {number} lacks the key {key!r}; it has {sorted(map(str, turn))}")
    text = turn[key]
    if not isinstance(text, str):
        raise SampleError(where, f"message {number}: {key!r} must be text, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError(where, f"message {number}: half of a character at position {error.start}") from error
    return text
