"""Predictions → scores: in all, by source, kind and length of the answer, with baselines and other models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smol_hf.evaluation.baselines import ASKED, MAJORITY, majority_answers
from smol_hf.evaluation.predictions import scores_of
from smol_hf.evaluation.statistics import COMPARISON, compare, grouped, length_of, summary
from smol_hf.evaluation.tasks import Question
from smol_hf.metrics.scores import METRICS

GROUPS = {
    "per_source": lambda row: row.question.source,
    "per_kind": lambda row: row.question.kind,
    "per_length": lambda row: length_of(row.question.references[0]),
}


@dataclass
class Row:
    """An answered question.

    Args:
        entry: its line in the file of predictions.
        scores: view or baseline → metric → score.
    """

    question: Question
    entry: dict[str, Any]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        return self.entry["prediction"]

    @property
    def is_right(self) -> bool:
        """True if the first metric of the question counts the answer as right."""
        name = self.question.metrics[0]
        return METRICS[name].is_right(self.scores[ASKED][name])


def rows_of(
    questions: Sequence[Question],
    entries: Mapping[tuple[str, str], dict[str, Any]],
    baselines: Sequence[str],
) -> list[Row]:
    """Return the answered questions with their scores.

    Args:
        entries: of the file of predictions, by view and name.
        baselines: names.
    """
    answered = [each for each in questions if (ASKED, each.where) in entries]
    majority = majority_answers(answered) if MAJORITY in baselines else []
    rows = []
    for number, question in enumerate(answered):
        row = Row(question, entries[ASKED, question.where])
        row.scores[ASKED] = scores_of(row.answer, question)
        for name in baselines:
            answer = majority[number] if name == MAJORITY else None
            if name != MAJORITY and (name, question.where) in entries:
                answer = entries[name, question.where]["prediction"]
            if answer is not None:
                row.scores[name] = scores_of(answer, question)
        rows.append(row)
    return rows


def figures(rows: Sequence[Row], baselines: Sequence[str], seed: int) -> dict[str, Any]:
    """Return `questions`, `metrics` (each with its interval and its baselines), and the losses of the references.

    `loss` is in nats per token, with the end of the answer; `bits_per_byte` of the references' texts.
    """
    metrics = {}
    for name in dict.fromkeys(name for row in rows for name in row.question.metrics):
        scored = [row for row in rows if name in row.scores[ASKED]]
        metrics[name] = {
            **summary([row.scores[ASKED][name] for row in scored], seed),
            "higher_is_better": METRICS[name].higher_is_better,
            "baselines": {
                each: summary([row.scores[each][name] for row in known], seed)
                for each in baselines
                if (known := [row for row in scored if each in row.scores])
            },
        }
    return {"questions": len(rows), "metrics": metrics, **losses(rows)}


def losses(rows: Sequence[Row]) -> dict[str, float | None]:
    measured = [row for row in rows if row.entry["nats"] is not None]
    nats = math.fsum(row.entry["nats"] for row in measured)
    tokens = sum(row.entry["answer_tokens"] for row in measured)
    size = sum(len(row.question.references[0].encode()) for row in measured)
    return {
        "loss": nats / tokens if tokens else None,
        "bits_per_byte": nats / math.log(2) / size if size else None,
        "measured_references": len(measured),
    }


def groups_of(rows: Sequence[Row], baselines: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each group of rows: `per_source`, `per_kind` (if rows have kinds), `per_length`."""
    return {
        group: {name: figures(members, baselines, seed) for name, members in grouped(rows, key)}
        for group, key in GROUPS.items()
    }


def comparison(rows: Sequence[Row], name: str, others: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Compare with the answers of another model to the same rows.

    Args:
        name: of the other model or file.
        others: name of a row → its entry with `prediction`, and `question` unless unknown.

    Raises:
        ValueError: if no row is in both, or a row has another question there.
    """
    common = [row for row in rows if row.question.where in others]
    if not common:
        raise ValueError(f"{name} has no answer to a row of this data: evaluate it on the same file")
    for row in common:
        asked = others[row.question.where].get("question", row.question.text)
        if asked != row.question.text:
            raise ValueError(f"{name} has another question in {row.question.where}: evaluate it on the same file")
    metrics = {}
    for metric in dict.fromkeys(each for row in common for each in row.question.metrics):
        scored = [row for row in common if metric in row.question.metrics]
        theirs = [scores_of(others[row.question.where]["prediction"], row.question)[metric] for row in scored]
        metrics[metric] = compare([row.scores[ASKED][metric] for row in scored], theirs, seed)
    missing = {"only_here": len(rows) - len(common), "only_there": len(others) - len(common)}
    return {"name": name, "method": COMPARISON, **missing, "metrics": metrics}


def confusion(rows: Sequence[Row], most: int = 12) -> dict[str, Any] | None:
    """Return the table of given and right answers; None if there are more than `most` right ones, or only one.

    `right` names the rows, `given` the columns (the last one, "other", for answers that are no row); `counts` has
    one list of numbers for each row.
    """
    short = [row for row in rows if len(row.question.references) == 1]
    right = sorted({row.question.references[0] for row in short})
    if len(short) < len(rows) / 2 or not 2 <= len(right) <= most:
        return None
    given = [*right, "other"]
    counts = [[0] * len(given) for _ in right]
    for row in short:
        place = right.index(row.answer) if row.answer in right else len(right)
        counts[right.index(row.question.references[0])][place] += 1
    return {"right": right, "given": given, "counts": counts}
