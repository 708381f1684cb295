"""Group samples that are left out by their reason. Names, sizes and numbers in a reason do not count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smol_hf.data.conversation import FilteredOutError, SampleError, TooLongError
from smol_hf.support.formatting import percent

SHOWN_REASONS = 5
SHOWN_NAMES = 3
# Quoted names, paths, file names, sizes and numbers.
PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S+|\S+\.[A-Za-z][A-Za-z0-9]{1,4}\b|\d+(?:[.,x]\d+)*")


def skip_kind(fault: SampleError) -> str:
    """Return `filtered`, `too long` or `unusable`."""
    if isinstance(fault, FilteredOutError):
        return "filtered"
    return "too long" if isinstance(fault, TooLongError) else "unusable"


@dataclass
class Reason:
    """Samples that were left out for the same reason: their `number`, and the first ones as examples."""

    kind: str
    text: str
    number: int = 0
    first: list[SampleError] = field(default_factory=list)

    @property
    def example(self) -> SampleError:
        return self.first[0]

    def add(self, fault: SampleError) -> None:
        self.number += 1
        if len(self.first) < SHOWN_NAMES:
            self.first.append(fault)

    def facts(self) -> dict:
        return {
            "kind": self.kind,
            "reason": self.text,
            "number": self.number,
            "example": {"sample": self.example.where, "reason": self.example.problem},
        }

    def line(self) -> str:
        """Write the number of samples, the first in full, and the names of the next."""
        names = [fault.where for fault in self.first[1:]]
        more = ["…"] if self.number > SHOWN_NAMES else []
        also = f" (also {', '.join([*names, *more])})" if names else ""
        return f"    {self.number:,} × {self.example}{also}"


def reasons_of(faults: Iterable[SampleError]) -> list[Reason]:
    """List the reasons, the most frequent first."""
    groups: dict[tuple[str, str], Reason] = {}
    for fault in faults:
        key = (skip_kind(fault), PARTICULAR.sub("…", fault.problem))
        groups.setdefault(key, Reason(*key)).add(fault)
    return sorted(groups.values(), key=lambda reason: -reason.number)


def describe_reasons(faults: Sequence[SampleError]) -> list[str]:
    """Write a line for each of the most frequent reasons, and one for the others."""
    reasons = reasons_of(faults)
    lines = [reason.line() for reason in reasons[:SHOWN_REASONS]]
    if others := reasons[SHOWN_REASONS:]:
        lines.append(f"    {sum(reason.number for reason in others):,} for {len(others)} other reasons")
    return lines


def describe_sources(faults: Sequence[SampleError], seen: Mapping[str, int]) -> str:
    """Write lines about each source: its samples, the unusable ones, and their reasons.

    Args:
        seen: samples looked at, by the name of the source. Sources without faults are named, too.
    """
    by_source: dict[str, list[SampleError]] = {source: [] for source in seen}
    for fault in faults:
        by_source.setdefault(fault.source, []).append(fault)
    lines = []
    for source, own in by_source.items():
        number = seen.get(source, 0)
        share = f" ({percent(len(own) / number)})" if number >= len(own) > 0 else ""
        lines.append(f"  {source or 'data'}: {number:,} seen, {len(own):,} unusable{share}")
        lines += describe_reasons(own)
    return "\n".join(lines)
