"""What a sample that is longer than the context may lose, when the recipe says so: tiles, pages or turns.

Nothing is ever cut inside a text or an image. A sample that was shortened is counted and named, as one that was left
out is.
"""

from __future__ import annotations

import bisect
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart

LOSSES = ("tiles", "pages", "turns")


@dataclass(frozen=True)
class Shape:
    """A sample as it is trained: its conversation, and the `longest_edge` that its pictures are brought to."""

    conversation: Conversation
    longest_edge: int


def check_losses(losses: list[str]) -> None:
    """Raises ValueError for a loss that there is not, or that stands twice."""
    if not isinstance(losses, (list, tuple)) or set(losses) - set(LOSSES) or len(set(losses)) != len(losses):
        raise ValueError(
            f"too_long is {losses!r}: a list of {', '.join(LOSSES)}, in the order in which they are tried"
        )


def shortened(
    shape: Shape, losses: list[str], tile_size: int, measure: Callable[[Shape], int], most: int
) -> tuple[Shape | None, str]:
    """The sample with as little lost as makes it fit, and what was lost; (None, "") where nothing suffices.

    Args:
        losses: tried in this order; the next only where one is not enough, and on top of it.
        measure: tokens of a shape.
        most: tokens that fit.
    """
    said = []
    for loss in losses:
        whole, shapes = len(parts_of(shape, loss, tile_size)), list(smaller(shape, loss, tile_size))
        if not shapes:
            continue
        fitting = bisect.bisect_right(shapes, most, key=measure)  # the smallest comes first
        shape = shapes[max(fitting - 1, 0)]
        left = len(parts_of(shape, loss, tile_size))
        said.append(f"longest_edge {shape.longest_edge}" if loss == "tiles" else f"{left} of {whole} {loss}")
        if fitting:
            return shape, ", ".join(said)
    return None, ""


def parts_of(shape: Shape, loss: str, tile_size: int) -> list:
    """What can be lost one by one: steps of the longest edge, pages, or turns (questions with their answers)."""
    if loss == "tiles":
        return list(range(0, shape.longest_edge, tile_size)) if shape.conversation.images else []
    if loss == "pages":
        return shape.conversation.images
    return [message for message in shape.conversation.messages if message.role == "assistant"]


def smaller(shape: Shape, loss: str, tile_size: int) -> Iterator[Shape]:
    """The shapes with at least one part, the smallest first, without the whole."""
    for kept in range(1, len(parts_of(shape, loss, tile_size))):
        if loss == "tiles":
            yield replace(shape, longest_edge=kept * tile_size)
        elif loss == "pages":
            yield replace(shape, conversation=first_pages(shape.conversation, kept))
        else:
            yield replace(shape, conversation=first_turns(shape.conversation, kept))


def first_pages(conversation: Conversation, kept: int) -> Conversation:
    """Without the images after the first `kept`, in reading order."""
    messages, seen = [], 0
    for message in conversation.messages:
        parts = []
        for part in message.parts:
            seen += isinstance(part, ImagePart)
            if not isinstance(part, ImagePart) or seen <= kept:
                parts.append(part)
        messages.append(replace(message, parts=tuple(parts)))
    return replace(conversation, messages=tuple(messages))


def first_turns(conversation: Conversation, kept: int) -> Conversation:
    """Up to the answer number `kept`."""
    ends = [index for index, message in enumerate(conversation.messages, start=1) if message.role == "assistant"]
    ratings = conversation.turn_ratings[:kept]
    return replace(conversation, messages=conversation.messages[: ends[kept - 1]], turn_ratings=ratings)


def processor_at(processor, longest_edge: int):
    """The same processor with another `longest_edge`; texts become the same tokens."""
    if longest_edge == processor.longest_edge:
        return processor
    other = copy.copy(processor)
    other.longest_edge, other._encoder = longest_edge, processor.encoder
    return other


@dataclass
class ShortenedSamples:
    """The ledger of samples that were trained on shortened, each once: `shortened.jsonl`. That of an earlier run in
    the same place is gone on with (`keeps_earlier`) or replaced."""

    path: Path | None = None
    keeps_earlier: bool = True
    names: set[str] = field(default_factory=set)

    def __post_init__(self):
        if self.path is None or not self.path.exists():
            return
        if self.keeps_earlier:
            entries = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
            self.names |= {entry["sample"] for entry in entries}
        else:
            self.path.unlink()

    def note(self, samples: list[tuple[str, str]]) -> None:
        """Take (sample, what it lost) pairs."""
        new = [(name, lost) for name, lost in samples if name not in self.names]
        self.names |= {name for name, _ in new}
        if new and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(line(name, lost) for name, lost in new)


def line(name: str, lost: str) -> str:
    entry: dict[str, Any] = {"sample": name, "shortened": lost}
    return json.dumps(entry, ensure_ascii=False) + "\n"
