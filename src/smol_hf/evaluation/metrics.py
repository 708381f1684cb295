"""Scores of an answer, given the right ones. A score is a number from 0 to 1; more is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def normalised(text: str) -> str:
    """Return the text in lower case, with single spaces."""
    return " ".join(text.lower().split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer is one of the references, apart from case and white space."""
    return float(normalised(answer) in map(normalised, references))


def contains(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer contains one of the references, apart from case and white space."""
    return float(any(normalised(each) in normalised(answer) for each in references))


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match, "contains": contains}
