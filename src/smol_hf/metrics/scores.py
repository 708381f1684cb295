"""Scores of an answer against its references: pure functions `(answer, references) -> float`, by name in `METRICS`.

A name without a benchmark is a metric of its paper, with its quirks (`anls`, `vqa_accuracy`, `relaxed_accuracy`,
`contains`), or a clean metric. A name with a benchmark (`yes_no_mme`) reads answers as that benchmark's program does.
Use the clean one for your own data: `vqa_match`, `multiple_choice`, `yes_no`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from smol_hf.metrics.vqa_text import normalised, without_punctuation
from smol_hf.support.formatting import nearest

Score = Callable[[str, Sequence[str]], float]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Metric:
    """A metric. `higher_is_better` is false for error rates, which may exceed 1."""

    name: str
    score: Score
    higher_is_better: bool = True

    @property
    def summary(self) -> str:
        """The first line of its function's docstring."""
        return (self.score.__doc__ or "").strip().partition("\n")[0]

    def is_right(self, score: float) -> bool:
        """Return whether an answer with this score counts as right: at least 0.5, or an error rate below 0.5."""
        return score >= 0.5 if self.higher_is_better else score < 0.5


METRICS: dict[str, Metric] = {}


def metric(score: Score) -> Score:
    """Register a metric by the name of its function."""
    METRICS[score.__name__] = Metric(score.__name__, score, not score.__name__.endswith("error_rate"))
    return score


def find_metric(name: str) -> Metric:
    """Return the metric of this name. Raises ValueError for an unknown one, with the nearest name."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}{nearest(name, list(METRICS))} (there are {', '.join(METRICS)})")
    return METRICS[name]


@metric
def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference, apart from white space at both ends."""
    return float(answer.strip() in [each.strip() for each in references])


@metric
def contains(answer: str, references: Sequence[str]) -> float:
    """1 if the answer contains a reference, in any case; full-width characters count as usual ones.

    The score of OCRBench (https://arxiv.org/abs/2305.07895). "10" contains "1", and every answer contains "".
    """
    text = plain(answer)
    return float(any(plain(each) in text for each in references))


@metric
def contains_formula(answer: str, references: Sequence[str]) -> float:
    """1 if the answer contains a reference, without any spaces; upper and lower case differ.

    The score of OCRBench's handwritten formulas (HME100k).
    """
    text = "".join(answer.split())
    return float(any("".join(each.split()) in text for each in references))


def plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().strip().replace("\n", " ")


@metric
def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity: 1 − distance / length for the best reference; below 0.5 it is 0.

    https://arxiv.org/abs/1907.00490, the score of DocVQA. Case and repeated spaces do not count for the distance, but
    the length is that of the texts as written.
    """
    distances = []
    for each in references:
        length = max(len(answer), len(each))
        distances.append(levenshtein(joined(answer), joined(each)) / length if length else 0.0)
    similarity = 1 - min(distances)
    return similarity if similarity >= 0.5 else 0.0


def joined(text: str) -> str:
    return " ".join(text.strip().lower().split())


@metric
def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Agreement with annotators: for each one, min(1, equal answers of the others / 3), averaged. Needs 4 or more.

    https://visualqa.org/evaluation.html, of VQAv2 and TextVQA, with ten answers. One reference always scores 0, two
    score at most 1/3: use `vqa_match` then.
    """
    text, given = normalised(answer), [normalised(each) for each in references]
    equal = [each == text for each in given]
    return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(equal)


@metric
def vqa_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference after VQA's normalisation: for one or a few references."""
    return float(normalised(answer) in [normalised(each) for each in references])


@metric
def relaxed_accuracy(answer: str, references: Sequence[str]) -> float:
    """1 for a number within 5 % of a reference, or a text that equals one in any case.

    https://arxiv.org/abs/1909.00997, of ChartQA. "10%" is 0.1. "1,000" and "$10" are texts. A reference of 0 is
    compared as text, so "0.0" is wrong for "0". The year 1950 is right for 2012.
    """
    return float(any(is_near(answer, each) for each in references))


def is_near(answer: str, reference: str) -> bool:
    given, wanted = number_in(answer), number_in(reference)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= 0.05
    return answer.lower() == reference.lower()


def number_in(text: str) -> float | None:
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


@metric
def multiple_choice(answer: str, references: Sequence[str]) -> float:
    """1 if the answer names the option of a reference: its letter (A to J), or its text if that is a reference too.

    The letter is one after "answer is" or "option", in brackets, at the beginning before punctuation or the end of the
    line, or the only capital letter between spaces. "A dog is in B" is B, since its "A" is an article.
    """
    if answer.strip().lower() in [each.strip().lower() for each in references]:
        return 1.0
    option = option_in(answer)
    return float(option != "" and option in [each.strip("() .").upper() for each in references])


OPTIONS = (
    re.compile(r"(?:answer|option|choice)(?:\s+is|\s*:)?[\s:]*\W{0,3}([A-J])(?![\w'’])"),
    re.compile(r"\A\W*([A-Ja-j])(?:[.):*\]}]|\W*\Z|\s*\n)"),
    re.compile(r"\(([A-J])\)"),
    re.compile(r"(?<![\w'’])([B-HJ])(?![\w'’])"),  # not the words "A" and "I"
    re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z ])"),
)


def option_in(answer: str) -> str:
    """Return the letter of the option that an answer names; "" for none, and for several."""
    for pattern in OPTIONS:
        if found := {each.upper() for each in pattern.findall(answer)}:
            return found.pop() if len(found) == 1 else ""
    return ""


@metric
def multiple_choice_mvbench(answer: str, references: Sequence[str]) -> float:
    """1 if the first lone letter A to E equals that of a reference, in any case.

    As MVBench's program (https://arxiv.org/abs/2311.17005): "A dog is in B" names A, and so does "a dog".
    """
    return float(first_letter(answer) in [first_letter(each) for each in references])


def first_letter(answer: str) -> str:
    text = answer.strip()
    if match := re.match(r"([A-E])\.\s*\S", text, flags=re.IGNORECASE):
        return match[1].upper()
    text = without_punctuation(text.replace("\n", " ")).strip("'\"() ").lower()
    match = re.search(r"\b[a-e]\b", text)
    return match[0].upper() if match else text


@metric
def multiple_choice_video_mme(answer: str, references: Sequence[str]) -> float:
    """1 if the capital A to D at the start, or else the last lone one, equals a reference.

    It reads the cases of lmms-eval 0.7.3 for Video-MME, MLVU and MMStar as that program does: "A cat is on B" and "The
    correct option is B, not A" name A, and "b" names nothing.
    """
    return float(last_letter(answer) in references)


def last_letter(answer: str) -> str:
    found = re.findall(r"(?<![A-Za-z])([A-D])(?![A-Za-z])", answer)
    starts = re.match(r"\W*[A-D](?![A-Za-z])", answer) is not None
    return (found[0] if starts else found[-1]) if found else ""


@metric
def multiple_choice_scienceqa(answer: str, references: Sequence[str]) -> float:
    """1 for the letter of a reference in any case, or as a capital with a full stop and more text.

    As lmms-eval scores ScienceQA (https://arxiv.org/abs/2209.09513): "(B)", "b. text" and "The answer is B" are wrong.
    """
    letter = answer[0] if re.match(r"[A-Z]\.", answer) else answer.strip().upper()
    return float(letter in references)


@metric
def yes_no(answer: str, references: Sequence[str]) -> float:
    """1 if the first word is the yes or no of a reference, in any case."""
    first = re.match(r"\W*(yes|no)\b", answer.strip(), flags=re.IGNORECASE)
    return float(first is not None and first[1].lower() in [each.strip().lower() for each in references])


@metric
def yes_no_mme(answer: str, references: Sequence[str]) -> float:
    """1 if the first four characters contain the yes or no of a reference.

    As MME's program (https://arxiv.org/abs/2306.13394): "North" and "Not sure" are no, "**Yes**" is neither.
    """
    return float(yes_or_no(answer) in [each.strip().lower() for each in references])


def yes_or_no(answer: str) -> str:
    start = answer.strip().lower()[:4]
    start = {"y": "yes", "n": "no"}.get(start, start)
    return next((word for word in ("yes", "no") if word in start), "other")


@metric
def word_error_rate(answer: str, references: Sequence[str]) -> float:
    """Wrong, missing and additional words per word of the best reference; lower is better."""
    return min(error_rate(answer.split(), each.split()) for each in references)


@metric
def character_error_rate(answer: str, references: Sequence[str]) -> float:
    """Wrong, missing and additional characters per character of the best reference; lower is better."""
    return min(error_rate(answer.strip(), each.strip()) for each in references)


def error_rate(answer: Sequence[str], reference: Sequence[str]) -> float:
    return levenshtein(answer, reference) / len(reference) if reference else float(bool(answer))


def levenshtein(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the insertions, deletions and substitutions between two sequences, a row of the table at a time."""
    places = np.arange(len(second) + 1)
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(each, len(numbers)) for each in second], dtype=np.int64)
    row = places
    for each in first:
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != numbers.get(each, -1)))
        best = np.concatenate([row[:1] + 1, best])
        row = np.minimum.accumulate(best - places) + places  # insertions
    return int(row[-1])


def mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)
