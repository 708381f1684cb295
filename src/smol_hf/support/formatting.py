"""Numbers as people read them, the same in the report and on the model card; hints for what is misspelt."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence


def is_number(value: object) -> bool:
    """True for a finite int or float (numpy's included); False for None, NaN, infinities, booleans and text."""
    try:
        return not isinstance(value, (bool, str, bytes)) and math.isfinite(value)
    except TypeError:
        return False


def percent(fraction: float) -> str:
    """`0.973` → `97.3%`. Only a fraction of exactly 1 reads as 100.0%, and only exactly 0 as 0.0%."""
    shown = round(fraction * 100, 1)
    if shown == 100 and fraction < 1:
        shown = 99.9
    elif shown == 0 and fraction > 0:
        shown = 0.1
    return f"{shown:.1f}%"


def compact(number: float) -> str:
    """`1234567` → `1.23 M`; below a thousand the plain number."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,999 rounds up to the next letter, not to "1000 k".
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """`240.1` → `4 min 0 s`; `0.53` → `0.5 s`; `7384` → `2 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(round(seconds), 59)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def nearest(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown key: the most similar one that exists."""
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f": did you mean {match[0]!r}?" if match else ""
