"""What a sample that is longer than the context may lose, when the recipe says so: tiles, pages or turns.

Nothing is ever cut inside a text or an image. A sample that was shortened is counted and named, as one that was left
out is.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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
        whole, shapes = shape, list(smaller(shape, loss, tile_size))
        if not shapes:
            continue
        fitting = bisect.bisect_right(shapes, most, key=measure)  # the smallest comes first
        shape = shapes[max(fitting - 1, 0)]
        said.append(described(shape, loss, whole, tile_size))
        if fitting:
            return shape, ", ".join(said)
    return None, ""


def described(shape: Shape, loss: str, whole: Shape, tile_size: int) -> str:
    if loss == "tiles":
        return f"longest_edge {shape.longest_edge}"
    if loss == "pages":
        return f"{len(shape.conversation.images)} of {len(whole.conversation.images)} pages"
    return f"{len(parts_of(shape, loss, tile_size))} of {len(parts_of(whole, loss, tile_size))} turns"


def parts_of(shape: Shape, loss: str, tile_size: int) -> list:
    """What can be lost but for the first: steps of the longest edge, pages of messages that show several, or turns
    (questions with their answers)."""
    if loss == "tiles":
        return list(range(0, shape.longest_edge, tile_size)) if shape.conversation.images else []
    if loss == "pages":
        return [None, *further_pages(shape.conversation)]
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


def further_pages(conversation: Conversation) -> list[tuple[int, int]]:
    """(message, part) of the images that are not the first of their message. The first is never lost: without any, a
    question would be about nothing."""
    places = []
    for number, message in enumerate(conversation.messages):
        places += [(number, place) for place, part in enumerate(message.parts) if isinstance(part, ImagePart)][1:]
    return places


def first_pages(conversation: Conversation, kept: int) -> Conversation:
    """Without the last of the further pages: `kept` - 1 of them stay."""
    lost = set(further_pages(conversation)[kept - 1 :])
    messages = [
        replace(message, parts=tuple(part for place, part in enumerate(message.parts) if (number, place) not in lost))
        for number, message in enumerate(conversation.messages)
    ]
    return replace(conversation, messages=tuple(messages))


def first_turns(conversation: Conversation, kept: int) -> Conversation:
    """Up to the answer number `kept`."""
    ends = [index for index, message in enumerate(conversation.messages, start=1) if message.role == "assistant"]
    ratings = conversation.turn_ratings[:kept]
    return replace(conversation, messages=conversation.messages[: ends[kept - 1]], turn_ratings=ratings)
