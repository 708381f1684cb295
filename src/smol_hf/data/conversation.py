"""One sample of any dataset, in the one form that everything after the adapters reads.

A record of any dataset becomes a `Conversation`: messages with a role, each a sequence of typed parts. The
parts keep images and videos undecoded (encoded bytes or a path), so that planning, filtering and shuffling never
decode.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
MODALITIES = ("text", "image", "multiimage", "video")


class SampleError(ValueError):
    """A sample that cannot be used. The message names where it stands (file and row) and what to do.
    `source` is the name of the data source that it was met in, where the engine knows it."""

    source: str = ""

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem

    def __reduce__(self):
        # Exceptions cross process borders when a worker of the data loader raises: keep both arguments.
        return type(self), (self.where, self.problem), {"source": self.source}


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
        """Open a binary stream of the encoded image. Raises OSError when there is no file to read."""
        return io.BytesIO(self.content) if self.content is not None else Path(self.path).open("rb")


@dataclass(frozen=True)
class VideoPart:
    """A video that is not decoded yet: its encoded `content` (MP4, …) or the `path` of a file. Of a clip, `start` and
    `end` are in seconds."""

    content: bytes | None = None
    path: str | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self):
        if (self.content is None) == (self.path is None):
            raise ValueError("a VideoPart has either encoded bytes (content) or a path")


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True)
class Message:
    """One turn: `role` is one of `ROLES`; `parts` in reading order; `trained` is what the record says of it.

    `fields` are the further keys of the turn that the chat template is given, such as `tool_calls` and
    `reasoning_content`; none of them is empty.
    """

    role: str
    parts: tuple[Part, ...]
    trained: bool = True
    fields: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_blank(self) -> bool:
        """Whether it holds no image or video, no further field, and no text other than white space."""
        return not self.fields and all(isinstance(part, TextPart) and not part.text.strip() for part in self.parts)

    @property
    def is_learned(self) -> bool:
        """Whether the turn gets labels: an answer that is not empty and that the record lets be trained."""
        return self.role == "assistant" and self.trained and not self.is_blank


@dataclass(frozen=True)
class Conversation:
    """One sample. `sample_id` is unique in its dataset and is what every report and log names.

    For samples of a file it is `file:row`, with rows counted from 1. `source` is the subset that the record says it
    comes from. `turn_ratings` has one mapping per exchange of user and assistant, or is empty. `ignored` names the
    fields of the record that hold something and are not used. `tools` are the definitions of tools that the chat
    template is given.
    """

    sample_id: str
    messages: tuple[Message, ...]
    source: str = ""
    turn_ratings: tuple[dict[str, int], ...] = ()
    ignored: tuple[str, ...] = field(default=(), compare=False)
    tools: tuple[dict[str, Any], ...] = field(default=(), hash=False)

    @property
    def images(self) -> list[ImagePart]:
        """All image parts in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, ImagePart)]

    @property
    def videos(self) -> list[VideoPart]:
        """All video parts in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, VideoPart)]

    @property
    def modality(self) -> str:
        """One of `MODALITIES`: video if there is any, else by the number of images."""
        if self.videos:
            return "video"
        return MODALITIES[min(len(self.images), 2)]
