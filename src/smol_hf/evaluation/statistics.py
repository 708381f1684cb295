"""Means with 95 % bootstrap intervals, groups of rows, and the paired comparison of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from smol_hf.metrics.scores import mean

RESAMPLES = 2000
AT_ONCE = 1_000_000  # drawn rows in memory
COMPARISON = f"paired bootstrap over rows, {RESAMPLES:,} resamples"
LENGTHS = ((1, "1 word"), (3, "2 to 3 words"), (10, "4 to 10 words"), (None, "more than 10 words"))


def resampled_means(scores: Sequence[float], seed: int) -> np.ndarray:
    """Return the means (RESAMPLES,) of samples with replacement, as many rows each. The same rows for one seed."""
    values, generator = np.asarray(scores, dtype=np.float64), np.random.default_rng(seed)
    size = max(1, AT_ONCE // len(values))
    numbers = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    draws = (generator.integers(0, len(values), (number, len(values))) for number in numbers)
    return np.concatenate([values[each].mean(axis=1) for each in draws])


def summary(scores: Sequence[float], seed: int) -> dict[str, float]:
    """Return `score`, its 95 % interval as `low` and `high`, and `questions`.

    The limits are percentiles of the bootstrap. Equal scores have no spread, so theirs are `interval_of_equal`.
    """
    if min(scores) == max(scores):
        low, high = interval_of_equal(scores[0], len(scores))
    else:
        low, high = np.percentile(resampled_means(scores, seed), [2.5, 97.5])
    return {"score": mean(scores), "low": float(low), "high": float(high), "questions": len(scores)}


def interval_of_equal(score: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean from 0 to 1 after `number` equal scores (0, 1: Clopper and Pearson's)."""
    sureness = 0.025 ** (1 / number)
    return score * sureness, max(score, 1 - (1 - score) * sureness)


def compare(scores: Sequence[float], others: Sequence[float], seed: int) -> dict[str, float]:
    """Compare scores of the same rows.

    Returns:
        `score`, `other`, their `difference` with its 95 % interval, and `probability`: the share of resamples in which
        the difference has the observed sign. (A resample without a difference counts half.)
    """
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    difference, means = mean(differences.tolist()), resampled_means(differences.tolist(), seed)
    low, high = np.percentile(means, [2.5, 97.5])
    sign = np.sign(difference) or 1.0
    probability = float(np.mean(np.sign(means) == sign) + np.mean(means == 0) / 2)
    return {
        "score": mean(scores),
        "other": mean(others),
        "difference": difference,
        "low": float(low),
        "high": float(high),
        "probability": probability,
        "questions": len(scores),
    }


def length_of(text: str) -> str:
    """Name the group of an answer by its number of words."""
    words = len(text.split())
    return next(name for most, name in LENGTHS if most is None or words <= most)


def grouped(rows: Sequence[Any], key: Callable[[Any], str]) -> Iterator[tuple[str, list[Any]]]:
    """Yield (name, rows) of each group, in the order of their first rows. Rows without a name are in none."""
    names = dict.fromkeys(filter(None, map(key, rows)))
    yield from ((name, [row for row in rows if key(row) == name]) for name in names)
