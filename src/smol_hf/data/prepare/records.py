"""A conversation → a record in LLaVA's or the messages shape that our adapters read as the same conversation."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from smol_hf.data.conversation import Conversation, ImagePart, Message, Part, SampleError, TextPart, VideoPart
from smol_hf.data.media.videos import files_of
from smol_hf.data.records import Place, adapt
from smol_hf.data.records.messages import SECONDS
from smol_hf.data.records.ratings import ratings_record

LLAVA_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}  # of other formats: the format's name


# The first bytes of containers. Other embedded videos are called .mp4.
CONTAINERS = {b"\x1a\x45\xdf\xa3": ".mkv", b"RIFF": ".avi", b"GIF8": ".gif"}


@dataclass(frozen=True)
class Encoded:
    """The encoded bytes of an image, and the format in its header."""

    content: bytes
    format: str
    folder = "images"

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, path: Path) -> None:
        path.write_bytes(self.content)

    @cached_property
    def name(self) -> str:
        """Name of its file, from its content, so that equal images share a file."""
        digest = hashlib.sha256(self.content).hexdigest()[:32]
        return f"{digest}.{SUFFIXES.get(self.format, self.format.lower())}"


@dataclass(frozen=True)
class EncodedVideo:
    """A video file, or a folder of frames named by their times. All bytes stay as they are."""

    part: VideoPart
    folder = "videos"

    @property
    def is_folder(self) -> bool:
        return bool(self.part.frames) or (self.part.path is not None and Path(self.part.path).is_dir())

    def contents(self) -> dict[str, bytes | Path]:
        """Return the files, by their names."""
        if self.part.frames:
            return {f"{time!r}{suffix_of(frame)}": frame for time, frame in zip(self.part.times, self.part.frames)}
        if self.part.content is not None:
            return {"": self.part.content}
        files = [Path(file) for file in files_of(str(self.part.path)) if os.path.isfile(file)]
        return {file.name if self.is_folder else "": file for file in files if not file.name.startswith(".")}

    @cached_property
    def name(self) -> str:
        """Its name, from its contents, so that equal videos share a file."""
        whole = hashlib.sha256()
        for name, content in self.contents().items():
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
        path, content = self.part.path, self.part.content or b""
        kind = next((kind for magic, kind in CONTAINERS.items() if content.startswith(magic)), ".mp4")
        suffix = "" if self.is_folder else kind if path is None else Path(path).suffix.lower()
        return f"{whole.hexdigest()[:32]}{suffix}"

    @cached_property
    def size(self) -> int:
        contents = self.contents().values()
        return sum(each.stat().st_size if isinstance(each, Path) else len(each) for each in contents)

    @property
    def content(self) -> bytes:
        (content,) = self.contents().values()
        return content.read_bytes() if isinstance(content, Path) else content

    def write(self, path: Path) -> None:
        for name, content in self.contents().items():
            target = path / name if name else path
            target.parent.mkdir(exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)


def suffix_of(image: bytes) -> str:
    with Image.open(io.BytesIO(image)) as opened:
        form = opened.format or ""
    return f".{SUFFIXES.get(form, form.lower())}"


def llava_record(conversation: Conversation, paths: Sequence[str]) -> dict[str, Any]:
    """Return a record in LLaVA's shape.

    {"id", "image"?, "video"?: path or list of paths, "conversations": [{"from", "value", "train"?, …}, …], "source"?,
    "turn_ratings"?, "tools"?}.

    Args:
        paths: of the images and videos in reading order.
    """
    if conversation.document is not None:
        return text_record(conversation)
    turns = [
        {"from": LLAVA_ROLES[message.role], "value": llava_text(message.parts), **further(message)}
        for message in conversation.messages
    ]
    named: dict[str, list[str]] = {}
    for part, path in zip(conversation.media, paths):
        named.setdefault(kind_of(part), []).append(path)
    media = {kind: each[0] if len(each) == 1 else each for kind, each in named.items()}
    return {"id": conversation.sample_id, **media, "conversations": turns, **record_labels(conversation)}


def kind_of(part: Part) -> str:
    return "image" if isinstance(part, ImagePart) else "video"


def llava_text(parts: Sequence[Part]) -> str:
    """Return the texts with `<image>` for each image and `<video>` for each video.

    It is on its own line if it is before the first or after the last text, or next to a line break of a text.
    """
    texts = [index for index, part in enumerate(parts) if isinstance(part, TextPart)]
    first, last = (texts[0], texts[-1]) if texts else (len(parts), -1)
    result = ""
    for index, part in enumerate(parts):
        own = part.text if isinstance(part, TextPart) else f"<{kind_of(part)}>"
        are_texts = {isinstance(each, TextPart) for each in parts[max(index - 1, 0) : index + 1]}
        if index and True not in are_texts:
            result += "\n"
        elif len(are_texts) > 1:  # a text next to an image or a video
            on_its_own = index <= first or index > last
            result += "\n" if on_its_own or result.endswith("\n") or own.startswith("\n") else ""
        result += own
    return result


def messages_record(conversation: Conversation, paths: Sequence[str] | None = None) -> dict[str, Any]:
    """{"id", "messages": [{"role", "content": [part, …], "train"?, …}, …], "source"?, "turn_ratings"?, "tools"?}.

    A part of an image or a video names its path; without `paths` it is the next one of the record. That of a video
    has its `start` and `end`.
    """
    if conversation.document is not None:
        return text_record(conversation)
    names = iter(paths or ())
    messages = []
    for message in conversation.messages:
        content = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            else:
                kind = kind_of(part)
                seconds = {key: getattr(part, key) for key in SECONDS if getattr(part, key, None) is not None}
                content.append({"type": kind, **({} if paths is None else {kind: next(names)}), **seconds})
        messages.append({"role": message.role, "content": content, **further(message)})
    return {"id": conversation.sample_id, "messages": messages, **record_labels(conversation)}


def text_record(conversation: Conversation) -> dict[str, Any]:
    """Return the record of a plain text: {"id", "text", "source"?}."""
    return {"id": conversation.sample_id, "text": conversation.document, **record_labels(conversation)}


def stored(part: ImagePart | VideoPart, path: str | None = None, content: bytes | None = None) -> Part:
    """Return the image or video at another place: under a path, or as bytes."""
    if isinstance(part, ImagePart):
        return ImagePart(content, path)
    return VideoPart(content, path, part.start, part.end)


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


def reads_back(record: dict[str, Any], conversation: Conversation, media: Sequence[Part]) -> bool:
    """Return True if our adapters read the record as this conversation, with `media` as its images and videos."""
    shown = iter(media)
    messages = tuple(
        replace(message, parts=tuple(part if isinstance(part, TextPart) else next(shown) for part in message.parts))
        for message in conversation.messages
    )
    try:
        return adapt(record, Place(conversation.sample_id, Path())) == replace(conversation, messages=messages)
    except SampleError:
        return False
