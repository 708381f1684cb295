"""Exact match on held-out questions, with and without the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smol_hf.data.digits import Page


@dataclass(frozen=True)
class Question:
    """A question of a `kind` about one encoded `image`, and its right answer `truth`."""

    image: bytes
    kind: str
    text: str
    truth: str

    @classmethod
    def of_page(cls, page: Page) -> Question:
        image = page.conversation.images[0].content
        assert image is not None  # pages are drawn in memory
        return cls(image, page.kind, page.question, page.answer)


def score(questions: Sequence[Question], answers: Sequence[str], blind_answers: Sequence[str]) -> dict:
    """Return `exact_match`, `blind_exact_match` (fractions of 1), `questions`, and the three again in `per_kind`."""
    kinds = sorted({question.kind for question in questions})

    def of(chosen: list[int]) -> dict:
        return {
            "exact_match": sum(answers[i] == questions[i].truth for i in chosen) / len(chosen),
            "blind_exact_match": sum(blind_answers[i] == questions[i].truth for i in chosen) / len(chosen),
            "questions": len(chosen),
        }

    everything = list(range(len(questions)))
    per_kind = {kind: of([i for i in everything if questions[i].kind == kind]) for kind in kinds}
    return {**of(everything), "per_kind": per_kind}
