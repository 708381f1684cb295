"""Shorten samples that do not fit the context, if the recipe allows it: by tiles, frames, pages or turns.

Texts and images are never cut. A shortened sample is counted and named, as one that is left out.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from smol_hf.data.conversation import Conversation, ImagePart
from smol_hf.processing.video_sampling import VideoSampling

LOSSES = ("tiles", "frames", "pages", "turns")


@dataclass(frozen=True)
class SampleVersion:
    """A version of a sample: its conversation, the `longest_edge` of its images, and the most frames of a video.

    `frames`: None: as many as the processor chooses. `fewest_frames`: that a video keeps.
    """

    conversation: Conversation
    longest_edge: int
    frames: int | None = None
    fewest_frames: int = 1

    def sampling(self, sampling: VideoSampling) -> VideoSampling:
        """Limit the number of frames."""
        return (
            sampling
            if self.frames is None
            else replace(sampling, max_frames=self.frames, min_frames=min(sampling.min_frames, self.frames))
        )


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
        *smaller, complete = versions(shape, loss, tile_size)
        if not smaller:
            continue
        fitting = bisect.bisect_right(smaller, most, key=measure)
        kept = max(fitting, 1)
        shape = smaller[kept - 1]
        said.append({
            "tiles": f"longest_edge {shape.longest_edge}",
            "frames": f"{shape.frames} of {complete.frames} frames",
            "pages": f"{len(shape.conversation.images)} of {len(complete.conversation.images)} pages",
            "turns": f"{kept} of {len(smaller) + 1} turns",
        }[loss])  # fmt: skip
        if fitting:
            return shape, ", ".join(said)
    return None, ""


def versions(shape: SampleVersion, loss: str, tile_size: int) -> list[SampleVersion]:
    """List the versions of a sample after a loss, the smallest first and the complete one last.

    They differ by a step of the longest edge, by a frame of the longest videos, by a page of a message that shows
    several, or by a turn (a question with its answer). The first page of a message and the first turn are never lost.
    """
    conversation = shape.conversation
    messages = conversation.messages
    if loss == "tiles":
        edges = range(tile_size, shape.longest_edge, tile_size) if conversation.images else ()
        return [*(replace(shape, longest_edge=edge) for edge in edges), shape]
    if loss == "frames":
        most = shape.frames or 0
        return [*(replace(shape, frames=number) for number in range(shape.fewest_frames, most)), shape]
    if loss == "turns":
        ends = [number for number, message in enumerate(messages, start=1) if message.role == "assistant"][:-1]
        ratings = conversation.turn_ratings
        shorter = [
            replace(conversation, messages=messages[:end], turn_ratings=ratings[:number])
            for number, end in enumerate(ends, start=1)
        ]
    else:
        pages = []  # (message, part) of those that may be lost
        for number, message in enumerate(messages):
            pages += [(number, place) for place, part in enumerate(message.parts) if isinstance(part, ImagePart)][1:]
        shorter = [without_pages(conversation, pages[kept:]) for kept in range(len(pages))]
    return [*(replace(shape, conversation=each) for each in shorter), shape]


def without_pages(conversation: Conversation, lost: list[tuple[int, int]]) -> Conversation:
    """Remove the parts at these places (message, part)."""
    messages = [
        replace(message, parts=tuple(part for place, part in enumerate(message.parts) if (number, place) not in lost))
        for number, message in enumerate(conversation.messages)
    ]
    return replace(conversation, messages=tuple(messages))
