"""One sample of any dataset, in the one form that everything after the adapters reads.

A record of any dataset becomes a `Conversation`: messages with a role, each a sequence of typed parts. The
parts keep images undecoded (encoded bytes or a path), so that planning, filtering and shuffling never decode.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant")


class SampleError(ValueError):
    """A sample that cannot be used. The message names where it stands (file and row) and what to do."""

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem

    def __reduce__(self):
        # Exceptions cross process borders when a worker of the data loader raises: keep both arguments.
        return type(self), (self.where, self.problem)


@dataclass(frozen=True)
class TextPart:
    """Ordinary text. Nothing in it is ever read as a special token."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image that is not decoded yet: its encoded `content` (PNG, JPEG, …) or the `path` of a file."""

    content: bytes | None = None
    path: str | None = None

    def __post_init__(self):
        if (self.content is None) == (self.path is None):
            raise ValueError("an ImagePart has either encoded bytes (content) or a path")

    def open(self) -> io.BufferedIOBase:
        """A binary stream of the encoded image. Raises OSError when the file cannot be read."""
        return io.BytesIO(self.content) if self.content is not None else Path(self.path).open("rb")


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """What one speaker says: `role` is one of `system`, `user`, `assistant`; `parts` in reading order."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """One sample. `sample_id` is unique in its dataset and is what every report and log names.

    For samples of a file it is `file:row`, with rows counted from 1.
    """

    sample_id: str
    messages: tuple[Message, ...]

    @property
    def images(self) -> list[ImagePart]:
        """All image parts in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, ImagePart)]

    def without_images(self) -> Conversation:
        """The same conversation as a blind reader would see it."""
        blind = tuple(
            Message(message.role, tuple(part for part in message.parts if isinstance(part, TextPart)))
            for message in self.messages
        )
        return Conversation(self.sample_id, blind)

    def to_row(self) -> dict[str, Any]:
        """A row for `datasets.Dataset`: `sample_id`, `messages` (JSON text) and `images` (bytes or path of each).

        The messages travel as JSON because Arrow would fill the missing keys of every part with None.
        """
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
                    for part in message.parts
                ],
            }
            for message in self.messages
        ]
        return {
            "sample_id": self.sample_id,
            "messages": json.dumps(messages, ensure_ascii=False),
            "images": [{"bytes": image.content, "path": image.path} for image in self.images],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Conversation:
        """The inverse of `to_row`."""
        images = iter(row["images"])

        def part(value: dict[str, str]) -> Part:
            if value["type"] == "text":
                return TextPart(value["text"])
            image = next(images)
            return ImagePart(content=image["bytes"], path=image["path"])

        messages = tuple(
            Message(message["role"], tuple(part(value) for value in message["content"]))
            for message in json.loads(row["messages"])
        )
        return cls(row["sample_id"], messages)
