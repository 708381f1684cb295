"""Shares of the sources and modalities of a mixture, planned and realised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from smol_hf.data.mixture.failed_sources import FailedSource
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.stream.stream import Plan

UNNAMED = "not named"


@dataclass(frozen=True)
class PlannedMixture:
    """The planned round of a run, for each source: name, modality, rows, and records per round.

    `expected`: its rows according to the recipe, or None.
    """

    names: list[str]
    modalities: list[str | None]
    rows: list[int]
    records: list[float]
    expected: list[int | None]
    failed: list[FailedSource] = field(default_factory=list)

    @classmethod
    def of(cls, data: Data) -> PlannedMixture:
        rows = [len(source) for source in data.sources]
        records = [weight * number for weight, number in zip(data.weights, rows)]
        # A stopping rule changes the length of a round, and so the records of failed sources in it.
        scale = records[0] / (data.entries[0].records(rows[0]) or 1.0) if data.entries else 1.0
        failed = [
            each if each.records is None else replace(each, records=scale * each.records) for each in data.failed
        ]
        return cls(
            [source.name for source in data.sources],
            [entry.modality for entry in data.entries] or [None] * len(rows),
            rows,
            records,
            [entry.available for entry in data.entries] or [None] * len(rows),
            failed,
        )

    @classmethod
    def of_plan(cls, plan: Plan) -> PlannedMixture:
        return cls.of(Data(plan.sources, [], plan.weights))

    def other_sizes(self) -> list[str]:
        """Return a line for each source whose number of records differs from the recipe."""
        facts = zip(self.names, self.rows, self.expected)
        return [
            f"{name} holds {rows:,} records, not {expected:,} as the recipe says"
            for name, rows, expected in facts
            if expected is not None and expected != rows
        ]


def shares(numbers: Sequence[float]) -> list[float]:
    """Return each number divided by their sum; zeros for a sum of 0."""
    total = sum(numbers)
    return [number / total if total else 0.0 for number in numbers]


def by_modality(modalities: Sequence[str | None], numbers: Sequence[float]) -> dict[str, float]:
    """Return the sum of the numbers of each modality. Those without one have a key of their own."""
    sums: dict[str, float] = {}
    for modality, number in zip(modalities, numbers):
        key = modality or UNNAMED
        sums[key] = sums.get(key, 0) + number
    return sums
