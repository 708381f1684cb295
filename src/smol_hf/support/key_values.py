"""Checks of the values of recipe keys against the types of their dataclasses."""

from __future__ import annotations

import types
import typing
import unicodedata
from typing import Any

# Type → one value, and several values.
WORDS = {
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    list: ("a list", "lists"),
    dict: ("a mapping", "mappings"),
}


def base_of(annotation: Any) -> Any:
    """Remove `| None` from an annotation."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        inner = [each for each in typing.get_args(annotation) if each is not types.NoneType]
        return inner[0] if len(inner) == 1 else Any
    return annotation


def is_of(value: Any, kind: type) -> bool:
    """Compare a value with a type. A whole number is also a number; true and false are not numbers."""
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def type_problem(value: Any, annotation: Any) -> str | None:
    """Return the problem of a value of another type, such as "it must be a whole number", or None.

    Every value fits an annotation other than str, bool, int, float, list and dict. None fits every annotation.
    """
    wanted = base_of(annotation)
    kind = typing.get_origin(wanted) or wanted
    if value is None or kind not in WORDS:
        return None
    inner = typing.get_args(wanted)
    item = typing.get_origin(inner[0]) or inner[0] if kind is list and inner else None
    item = item if item in WORDS else None
    if is_of(value, kind) and (item is None or all(is_of(each, item) for each in value)):
        return None
    hint = ", so in quotes" if str in (kind, item) and not isinstance(value, (dict, str)) else ""
    return f"it must be {WORDS[kind][0]}{f' of {WORDS[item][1]}' if item is not None else ''}{hint}"


def is_name(value: str) -> bool:
    """Return True for text that fits in a line: not empty, no control characters or surrogates."""
    return bool(value.strip()) and not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in value)
