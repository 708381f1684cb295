"""Shorten samples that do not fit the context, if the recipe allows it: by tiles, pages or turns.

Texts and images are never cut. A shortened sample is counted and named, as one that is left out.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from smol_hf.data.conversation import Conversation, ImagePart

LOSSES = ("tiles", "pages", "turns")


@dataclass(frozen=True)
class SampleVersion:
    """A version of a sample: its conversation, and the `longest_edge` of its images."""

    conversation: Conversation
    longest_edge: int


def check_losses(losses: Sequence[str]) -> None:
    """Raise ValueError for an unknown or duplicate loss."""
    if not isinstance(losses, (list, tuple)) or set(losses) - set(LOSSES) or len(set(losses)) != len(losses):
        raise ValueError(
            f"too_long is {losses!r}: a list of {', '.join(LOSSES)}, in the order in which they are tried"
        )


def shortened(
    shape: SampleVersion, losses: Sequence[str], tile_size: int, measure: Callable[[SampleVersion], int], most: int
) -> tuple[SampleVersion | None, str]:
    """Return the sample with the smallest loss that makes it fit, and the loss; (None, "") if none suffices.

    Args:
        losses: tried in this order. If one is not enough, the next is added.
        measure: version → its tokens.
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


def described(shape: SampleVersion, loss: str, whole: SampleVersion, tile_size: int) -> str:
    if loss == "tiles":
        return f"longest_edge {shape.longest_edge}"
    if loss == "pages":
        return f"{len(shape.conversation.images)} of {len(whole.conversation.images)} pages"
    return f"{len(losable_parts(shape, loss, tile_size))} of {len(losable_parts(whole, loss, tile_size))} turns"


def losable_parts(shape: SampleVersion, loss: str, tile_size: int) -> list:
    """List the parts that can be lost, except the first.

    They are steps of the longest edge, pages of messages that show several, or turns (questions with answers).
    """
    if loss == "tiles":
        return list(range(0, shape.longest_edge, tile_size)) if shape.conversation.images else []
    if loss == "pages":
        return [None, *further_pages(shape.conversation)]
    return [message for message in shape.conversation.messages if message.role == "assistant"]


def smaller(shape: SampleVersion, loss: str, tile_size: int) -> Iterator[SampleVersion]:
    """Yield the versions with at least one part, the smallest first, without the complete one."""
    for kept in range(1, len(losable_parts(shape, loss, tile_size))):
        if loss == "tiles":
            yield replace(shape, longest_edge=kept * tile_size)
        elif loss == "pages":
            yield replace(shape, conversation=first_pages(shape.conversation, kept))
        else:
            yield replace(shape, conversation=first_turns(shape.conversation, kept))


def further_pages(conversation: Conversation) -> list[tuple[int, int]]:
    """Return (message, part) of the images that are not the first of their message, which is never lost."""
    places = []
    for number, message in enumerate(conversation.messages):
        places += [(number, place) for place, part in enumerate(message.parts) if isinstance(part, ImagePart)][1:]
    return places


def first_pages(conversation: Conversation, kept: int) -> Conversation:
    """Keep the first `kept` - 1 of the further pages."""
    lost = set(further_pages(conversation)[kept - 1 :])
    messages = [
        replace(message, parts=tuple(part for place, part in enumerate(message.parts) if (number, place) not in lost))
        for number, message in enumerate(conversation.messages)
    ]
    return replace(conversation, messages=tuple(messages))


def first_turns(conversation: Conversation, kept: int) -> Conversation:
    """Cut a conversation after answer number `kept`."""
    ends = [index for index, message in enumerate(conversation.messages, start=1) if message.role == "assistant"]
    ratings = conversation.turn_ratings[:kept]
    return replace(conversation, messages=conversation.messages[: ends[kept - 1]], turn_ratings=ratings)
