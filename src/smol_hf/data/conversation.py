"""The common form of a sample: a `Conversation` of messages, each with a role and typed parts.

Adapters convert a record of any dataset to it. Images and videos stay encoded (bytes or a path), so measuring,
filtering and shuffling never decode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
DOCUMENT = "document"  # the role of the only message of a plain text, which no chat template writes
LEARNED_ROLES = ("assistant", DOCUMENT)
MODALITIES = ("text", "image", "multiimage", "video")


class SampleError(ValueError):
    """A sample that cannot be used. The message names its file and row, and says what to do.

    `where` is empty if only one is given, such as the prompt of a command. `source` is the name of its data source,
    if known.
    """

    def __init__(self, where: str, problem: str, source: str = ""):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.problem, self.source = where, problem, source

    def __reduce__(self):
        # A worker of the data loader pickles what it raises: keep all arguments.
        return type(self), (self.where, self.problem, self.source)


class LeftOutError(SampleError):
    """A sample that is valid but not used. It is counted and named, and never stops a run."""


class TooLongError(LeftOutError):
    """A sample that does not fit the context."""


class FilteredOutError(LeftOutError):
    """A sample that the recipe's filters reject."""


KINDS = {"unusable": SampleError, "left out": LeftOutError, "too long": TooLongError, "filtered out": FilteredOutError}
KIND_OF = {error: kind for kind, error in KINDS.items()}


@dataclass(frozen=True)
class TextPart:
    """Plain text. None of it is read as a special token."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An encoded image: either its `content` (PNG, JPEG, …) or the `path` of a file."""

    content: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class VideoPart:
    """A video: its `content` (MP4, …), the `path` of a file or of a folder of frames, or images with their `times`.

    `start`, `end`: the part that is used, in seconds. `frames`: encoded images; `times`: the second at which each
    appears. See `video_reader.open_video`.
    """

    content: bytes | None = None
    path: str | None = None
    start: float | None = None
    end: float | None = None
    frames: tuple[bytes, ...] = ()
    times: tuple[float, ...] = ()

    def __post_init__(self):
        if [self.content is not None, self.path is not None, bool(self.frames)].count(True) != 1:
            raise ValueError("a VideoPart has either encoded bytes (content), a path, or frames")
        if len(self.frames) != len(self.times):
            raise ValueError(f"{len(self.frames)} frames have {len(self.times)} times: give one for each")


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True)
class Message:
    """One turn: `role` is one of `ROLES` or `DOCUMENT`; `parts` are in reading order; `trained` is the record's mark.

    `fields` are the other keys that the chat template receives, such as `tool_calls`. None of them is empty.
    """

    role: str
    parts: tuple[Part, ...]
    trained: bool = True
    fields: dict[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def is_blank(self) -> bool:
        """True for a message without image, video, further field, or text other than white space."""
        return not self.fields and all(isinstance(part, TextPart) and not part.text.strip() for part in self.parts)

    @cached_property
    def is_learned(self) -> bool:
        """True for a message that gets labels: a non-empty answer that is not marked as untrained, or a plain text."""
        return self.role in LEARNED_ROLES and self.trained and not self.is_blank


@dataclass(frozen=True)
class Conversation:
    """One sample: a conversation, or a plain text, which is one message of the role `DOCUMENT` with one text.

    `sample_id`: its unique name in reports and logs, such as `file:row` (rows from 1). `source`: the subset that the
    record names. `turn_ratings`: one mapping per exchange of user and assistant, or empty. `ignored`: names of
    non-empty fields that are not used. `tools`: definitions of tools for the chat template.
    """

    sample_id: str
    messages: tuple[Message, ...]
    source: str = ""
    turn_ratings: tuple[dict[str, int], ...] = ()
    ignored: tuple[str, ...] = field(default=(), compare=False)
    tools: tuple[dict[str, Any], ...] = field(default=(), hash=False)

    @property
    def document(self) -> str | None:
        """The text of a plain text; None for a conversation. Raises ValueError for a plain text with other parts."""
        if all(message.role != DOCUMENT for message in self.messages):
            return None
        parts = [part for message in self.messages for part in message.parts]
        if len(self.messages) != 1 or len(parts) != 1 or not isinstance(parts[0], TextPart):
            raise ValueError(f"a message of the role {DOCUMENT!r} has one text, and no other message follows it")
        return parts[0].text

    @cached_property
    def images(self) -> list[ImagePart]:
        """Image parts in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, ImagePart)]

    @cached_property
    def media(self) -> list[ImagePart | VideoPart]:
        """Image and video parts in reading order."""
        return [part for message in self.messages for part in message.parts if not isinstance(part, TextPart)]

    @property
    def videos(self) -> list[VideoPart]:
        """Video parts in reading order."""
        return [part for message in self.messages for part in message.parts if isinstance(part, VideoPart)]
