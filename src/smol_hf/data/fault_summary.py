"""Many faults, as a person reads them: by source and by reason, with counts and the first names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from smol_hf.data.conversation import SampleError
from smol_hf.support.formatting import percent

SHOWN_REASONS = 5
SHOWN_NAMES = 3
PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\S+\.\w{2,5}\b|\d[\d,.]*")  # names of files, values, numbers


def describe_sources(faults: Sequence[SampleError], seen: Mapping[str, int]) -> str:
    """Lines about each source: samples seen and unusable ones, their reasons from the most frequent on.

    Args:
        seen: samples looked at, by the name of the source; sources without faults are named, too.
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


def describe_reasons(faults: Sequence[SampleError]) -> list[str]:
    """One line for each kind of reason: how often, the first in full, and the names of the next."""
    by_reason: dict[str, list[SampleError]] = {}
    for fault in faults:
        by_reason.setdefault(PARTICULAR.sub("…", fault.problem), []).append(fault)
    groups = sorted(by_reason.values(), key=len, reverse=True)
    lines = []
    for group in groups[:SHOWN_REASONS]:
        names = [fault.where for fault in group[1:SHOWN_NAMES]]
        more = ["…"] if len(group) > SHOWN_NAMES else []
        also = f" (also {', '.join([*names, *more])})" if names else ""
        lines.append(f"    {len(group):,} × {group[0]}{also}")
    if len(groups) > SHOWN_REASONS:
        rest = sum(map(len, groups[SHOWN_REASONS:]))
        lines.append(f"    {rest:,} for {len(groups) - SHOWN_REASONS} other reasons")
    return lines
