"""What part of a mixture each source makes up, and each modality: as planned, and as it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from smol_hf.data.mixture.failed_sources import FailedSource
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.stream.stream import Plan

UNNAMED = "not named"


@dataclass(frozen=True)
class PlannedMixture:
    """What a round of a run should hold, for each source: its name, modality, rows, and the records that it gives.

    `expected` are the rows that the recipe says it has, None where it does not.
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
        # A stopping rule makes rounds longer or shorter: also what the failed sources would have given in them.
        scale = records[0] / data.entries[0].records(rows[0]) if data.entries else 1.0
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
        """A line for each source that has not as many records as the recipe says."""
        facts = zip(self.names, self.rows, self.expected)
        return [
            f"{name} holds {rows:,} records, not {expected:,} as the recipe says"
            for name, rows, expected in facts
            if expected is not None and expected != rows
        ]


def shares(numbers: Sequence[float]) -> list[float]:
    """Each number's part of their sum; zeros where there is nothing yet."""
    total = sum(numbers)
    return [number / total if total else 0.0 for number in numbers]


def by_modality(modalities: Sequence[str | None], numbers: Sequence[float]) -> dict[str, float]:
    """The sum of the numbers of each modality, those without one under a key of their own."""
    sums: dict[str, float] = {}
    for modality, number in zip(modalities, numbers):
        key = modality or UNNAMED
        sums[key] = sums.get(key, 0) + number
    return sums
