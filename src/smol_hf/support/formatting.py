"""Readable numbers, the same in reports and model cards, and hints for misspelt words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

SIMILAR = 0.65  # share of equal characters of a word and the one that may be meant


def is_number(value: object) -> bool:
    """Return True for a finite int or float (also of numpy), not for None, NaN, infinities, booleans and text."""
    try:
        return not isinstance(value, (bool, str, bytes)) and math.isfinite(value)  # type: ignore[arg-type]  (TypeError)
    except (TypeError, OverflowError):  # an integer that no float can hold
        return False


def percent(fraction: float) -> str:
    """Format `0.973` as `97.3%`. Only exactly 1 becomes 100.0%, and only exactly 0 becomes 0.0%."""
    shown = round(fraction * 100, 1)
    if shown == 100 and fraction < 1:
        shown = 99.9
    elif shown == 0 and fraction > 0:
        shown = 0.1
    return f"{shown:.1f}%"


def compact(number: float) -> str:
    """Format `1234567` as `1.23 M`. Numbers below 1000 stay as they are."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,999 rounds up to the next letter, not to "1000 k".
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"


def data_size(number: int) -> str:
    """Format bytes: `1.23 MB`."""
    text = compact(number)
    return text.replace(" B", " G") + ("B" if " " in text else " B")


def duration(seconds: float) -> str:
    """Format `240.1` as `4 min 0 s`, `0.53` as `0.5 s`, and `7384` as `2 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(round(seconds), 59)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str, verb: str = "", *, ending: str = "s") -> str:
    """Format `1 file` and `1,200 files`; with the verb `is/are`, `1 file is` and `1,200 files are`."""
    one, _, more = verb.partition("/")
    return f"{number:,} {noun} {one}".rstrip() if number == 1 else f"{number:,} {noun}{ending} {more}".rstrip()


def nearest(key: str, known: Sequence[str]) -> str:
    """Return a hint for an unknown word: the most similar known one, if it is similar enough to be meant."""
    match = difflib.get_close_matches(key, known, n=1, cutoff=SIMILAR) or [
        each for each in known if len(key) > 3 and each.startswith(key)
    ]
    return f": did you mean {match[0]!r}?" if match else ""


def one_line(text: object) -> str:
    """Join the lines of a text, such as a library's error, with single spaces."""
    return " ".join(str(text).split())
