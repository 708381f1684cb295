"""Pages of handwritten digits with questions: any number of pages, a function of the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smol_hf.data.conversation import Conversation, ImagePart, TextPart
from smol_hf.data.digits.digits import DigitSet, load_digits
from smol_hf.data.digits.drawing import Box, PageDraws, draw_page, place_as_number, place_on_line
from smol_hf.data.digits.questions import Asked, Turn, check_options, conversation_of, describe

KINDS = ("digit", "number", "count", "larger", "side")  # of first questions; "sequence" is only added to them

# Kind → the question, and its answer for the digits of the page from left to right.
_QUESTIONS: dict[str, tuple[str, Callable[[list[int]], str]]] = {
    "digit": ("Which digit is written here?", lambda digits: str(digits[0])),
    "number": ("Which number is written here?", lambda digits: "".join(map(str, digits))),
    "count": ("How many digits are on the page?", lambda digits: str(len(digits))),
    # Reading both digits before comparing them is far easier to learn.
    "larger": ("Read both digits: which is larger?", lambda digits: f"{digits[0]} and {digits[1]}: {max(digits)}"),
    "left": ("Which digit is on the left?", lambda digits: str(digits[0])),
    "right": ("Which digit is on the right?", lambda digits: str(digits[-1])),
    "sequence": ("Read the digits.", lambda digits: " ".join(map(str, digits))),
}

# After one of these, the answers to all other questions could be copied.
_READS_THE_PAGE = ("digit", "number", "larger", "sequence")


@dataclass(frozen=True)
class PlacedDigit:
    """One digit on a page.

    `index` is its position in scikit-learn's `load_digits()`. `box` is (left, top, right, bottom) in pixels, right
    and bottom excluded, and holds all of its ink. The boxes of a page do not overlap.
    """

    label: int
    index: int
    box: Box


@dataclass(frozen=True)
class Page(Asked):
    """One page: the conversation about it, the turns of that conversation, and the digits from left to right."""

    digits: tuple[PlacedDigit, ...]
    page_size: int = 32

    @property
    def story(self) -> Conversation:
        """The same conversation, with words in place of the image."""
        text = describe([(each.label, each.box) for each in self.digits], self.page_size)
        name = self.conversation.sample_id.replace("/page", "/page_story")
        return conversation_of(name, TextPart(f"{text}\n"), self.turns)


def build_pages(
    number: int, *, seed: int, split: str, page_size: int = 32, turns: int = 1, first: int = 0
) -> Iterator[Page]:
    """Yield `number` pages from the page `first` on, drawn from the digits of `split` ("train" or "test") only.

    Page i depends on `seed`, `split`, `page_size`, `turns` and i, never on `number`. The image is an RGB PNG of
    `page_size` x `page_size` pixels (at least 24; digits grow with it). The kinds of the first question alternate,
    so they are balanced. A page has up to `turns` questions: if the first (`count`, `side`) leaves digits unread, the
    second asks for all digits, which teaches most. `sequence` is never a first question. A sample id is
    `digits/train/seed0/page000123`.

    The score without seeing the page, with the likeliest answer to each first question: `digit` and `side` 10 %,
    `number` and `larger` 1.1 % (90 different answers), `count` 33.3 % (1 to 3); 11.1 % over all kinds.

    Raises ValueError for an unknown split, a negative `number`, a `page_size` below 24, `turns` below 1, or a seed
    that does not fit in 64 bits.
    """
    digits = load_digits(split)
    check_options(number, seed, page_size, turns)
    return (_build_page(digits, index, seed, split, page_size, turns) for index in range(first, first + number))


def evaluation_questions(number: int, *, seed: int, page_size: int = 32) -> list[Page]:
    """Return `number` pages of the test split with one question each, kinds balanced: for scoring by exact match."""
    return list(build_pages(number, seed=seed, split="test", page_size=page_size))


def _build_page(digits: DigitSet, index: int, seed: int, split: str, page_size: int, turns: int) -> Page:
    draws = PageDraws(seed, split, index)
    # Shifted by one in each round of five, so that reading every fifth page does not give one kind only.
    kind = KINDS[(index + index // len(KINDS)) % len(KINDS)]
    rows = [draws.pick(digits.rows_by_label[label]) for label in _draw_labels(kind, draws)]
    asked = draws.pick(("left", "right")) if kind == "side" else kind

    layout = place_as_number if kind == "number" else place_on_line
    png, boxes = draw_page([digits.images[row] for row in rows], layout, page_size, draws)
    placed = [
        PlacedDigit(int(digits.label[row]), int(digits.index[row]), box) for row, box in zip(rows, boxes, strict=True)
    ]
    placed.sort(key=lambda digit: digit.box[0])
    labels = [digit.label for digit in placed]
    names = [asked]
    while len(names) < turns and names[-1] not in _READS_THE_PAGE:
        names.append("digit" if len(placed) == 1 else "sequence")

    asked_turns = []
    for name in names:
        question, answer_of = _QUESTIONS[name]
        asked_turns.append(Turn("side" if name in ("left", "right") else name, question, answer_of(labels)))
    name = f"digits/{split}/seed{seed}/page{index:06d}"
    conversation = conversation_of(name, ImagePart(content=png), asked_turns)
    return Page(conversation, tuple(asked_turns), tuple(placed), page_size)


def _draw_labels(kind: str, draws: PageDraws) -> list[int]:
    """Return the labels of a page, from left to right, such that the answer to its question is uniform."""
    if kind == "digit":
        return [draws.below(10)]
    if kind == "number":
        return [1 + draws.below(9), draws.below(10)]
    if kind == "count":
        return [draws.below(10) for _ in range(1 + draws.below(3))]
    left = draws.below(10)
    return draws.pick([[left, right] for right in range(10) if right != left])
