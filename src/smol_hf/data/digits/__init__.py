"""The data of the package: pages and clips of real handwritten digits with questions.

    from smol_hf.data.digits import build_pages

    for page in build_pages(1000, seed=0, split="train"):
        page.conversation, page.kind, page.question, page.answer

`build_clips` has the same arguments. Its clips show digits that appear, move and leave.

The digits are a copy of a UCI set under CC BY 4.0, see `LICENSE-digits.txt` in this folder.
"""

from collections.abc import Callable

from smol_hf.data.conversation import Conversation
from smol_hf.data.digits.clips import (
    CLIP_KINDS,
    Clip,
    MovingDigit,
    build_clips,
    build_stories,
    evaluation_clips,
    single_frame,
)
from smol_hf.data.digits.digits import SPLITS, DigitSet, load_digits
from smol_hf.data.digits.pages import KINDS, Page, PlacedDigit, build_pages, evaluation_questions
from smol_hf.data.digits.questions import Asked, Turn

__all__ = [
    "CLIP_KINDS",
    "EMBEDDED",
    "KINDS",
    "SPLITS",
    "Asked",
    "Clip",
    "DigitSet",
    "MovingDigit",
    "Page",
    "PlacedDigit",
    "Turn",
    "build_clips",
    "build_pages",
    "build_stories",
    "evaluation_clips",
    "evaluation_questions",
    "load_digits",
    "single_frame",
]


def _page(**options) -> Conversation:
    return next(build_pages(1, split="train", **options)).conversation


def _clip(**options) -> Conversation:
    return next(build_clips(1, split="train", **options)).conversation


def _story(first: int, **options) -> Conversation:
    options |= {"split": "train", "first": first // 2}
    return next(build_stories(1, **options)) if first % 2 else next(build_pages(1, **options)).story


# The name of a source of training samples → the sample with the number `first`, by the options of `build_pages`.
EMBEDDED: dict[str, Callable[..., Conversation]] = {"digits": _page, "digit_clips": _clip, "digit_stories": _story}
