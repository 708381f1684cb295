"""The questions about a page or a clip, and the conversation that asks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smol_hf.data.conversation import Conversation, Message, Part, TextPart
from smol_hf.data.digits.drawing import Box

MINIMUM_PAGE_SIZE = 24


@dataclass(frozen=True)
class Turn:
    """One question about a page or a clip. `kind` is its kind or "sequence"; `answer` is the exact right text."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """The conversation about a page or a clip, and its turns."""

    conversation: Conversation
    turns: tuple[Turn, ...]

    @property
    def kind(self) -> str:
        """The kind of the first question."""
        return self.turns[0].kind

    @property
    def question(self) -> str:
        """The first question."""
        return self.turns[0].question

    @property
    def answer(self) -> str:
        """The answer to the first question."""
        return self.turns[0].answer


def conversation_of(sample_id: str, shown: Part, turns: Sequence[Turn]) -> Conversation:
    """Return the conversation of these turns; the first question follows the part `shown`."""
    messages = []
    for turn in turns:
        parts = (TextPart(turn.question),) if messages else (shown, TextPart(turn.question))
        messages += [Message("user", parts), Message("assistant", (TextPart(turn.answer),))]
    return Conversation(sample_id, tuple(messages))


def describe(digits: Iterable[tuple[int, Box]], page_size: int) -> str:
    """Describe labels and boxes in words, such as " 3 top left and 5 middle right"."""
    words = [f"{label} {place(box, page_size)}" for label, box in digits]
    return f" {' and '.join(words) or 'nothing'}"


def place(box: Box, page_size: int) -> str:
    """Return the place of a box in words: "top", "middle" or "bottom", and "left", "centre" or "right"."""
    left, top, right, bottom = box
    row, column = 3 * (top + bottom) // (2 * page_size), 3 * (left + right) // (2 * page_size)
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"


def check_options(number: int, seed: int, page_size: int, turns: int) -> None:
    """Raise ValueError for options of pages or clips out of range."""
    if number < 0:
        raise ValueError(f"number of pages must be 0 or more, got {number}")
    if page_size < MINIMUM_PAGE_SIZE:
        raise ValueError(f"page_size must be at least {MINIMUM_PAGE_SIZE} pixels, got {page_size}")
    if turns < 1:
        raise ValueError(f"turns must be at least 1, got {turns}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")
