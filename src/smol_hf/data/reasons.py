"""Why samples are left out, in groups: what differs from sample to sample is taken out of the reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.preparation import FilteredOutError, TooLongError

# Quoted names, paths, file names, sizes and numbers.
PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S+|\S+\.[A-Za-z][A-Za-z0-9]{1,4}\b|\d+(?:[.,x]\d+)*")


def kind_of(fault: SampleError) -> str:
    """`filtered`, `too long` or `unusable`."""
    if isinstance(fault, FilteredOutError):
        return "filtered"
    return "too long" if isinstance(fault, TooLongError) else "unusable"


@dataclass
class Reason:
    """Samples that were left out for the same reason, of which `example` is the first."""

    kind: str
    text: str
    number: int
    example: SampleError

    def facts(self) -> dict:
        return {
            "kind": self.kind,
            "reason": self.text,
            "number": self.number,
            "example": {"sample": self.example.where, "reason": self.example.problem},
        }


def reasons_of(faults: Iterable[SampleError]) -> list[Reason]:
    """The reasons, the most frequent first."""
    groups: dict[tuple[str, str], Reason] = {}
    for fault in faults:
        key = (kind_of(fault), PARTICULAR.sub("…", fault.problem))
        if key in groups:
            groups[key].number += 1
        else:
            groups[key] = Reason(*key, 1, fault)
    return sorted(groups.values(), key=lambda reason: -reason.number)
