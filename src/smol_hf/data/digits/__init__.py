"""The data of the package: pages of real handwritten digits with questions.

    from smol_hf.data.digits import build_pages

    for page in build_pages(1000, seed=0, split="train"):
        page.conversation, page.kind, page.question, page.answer

The digits are a copy of a UCI set under CC BY 4.0, see `LICENSE-digits.txt` in this folder.
"""

from smol_hf.data.digits.digits import SPLITS, DigitSet, load_digits
from smol_hf.data.digits.pages import KINDS, Page, PlacedDigit, Turn, build_pages, evaluation_questions

__all__ = [
    "KINDS",
    "SPLITS",
    "DigitSet",
    "Page",
    "PlacedDigit",
    "Turn",
    "build_pages",
    "evaluation_questions",
    "load_digits",
]
