"""Checked access to the fields of a record. Errors name the missing or wrong field with its full path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.registry import Place


@dataclass(frozen=True)
class Fields:
    """A record, or an object inside it. The methods raise a SampleError that names a missing or wrong field.

    `shape`: name of the adapter. `path`: the keys from the record to this object, empty for the record.
    """

    values: dict[str, Any]
    place: Place
    shape: str
    path: str = ""

    def way(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fault(self, problem: str) -> SampleError:
        return SampleError(self.place.where, problem)

    def lacking(self, fields: str) -> SampleError:
        """Return the error that names a missing field, or a choice of fields."""
        return self.fault(
            f"lacks the field {fields} (of the {self.shape} shape); it has {sorted(map(str, self.values))}"
        )

    def nullable(self, key: str) -> Any:
        """Return the value of a required field that may be null."""
        if key not in self.values:
            raise self.lacking(repr(self.way(key)))
        return self.values[key]

    def given(self, key: str) -> Any:
        """Return the value of a required field."""
        value = self.values.get(key)
        if value is None:
            self.nullable(key)
            raise self.fault(f"the field {self.way(key)!r} (of the {self.shape} shape) is null")
        return value

    def text(self, key: str) -> str:
        return checked_text(self.given(key), self.place.where, f"the field {self.way(key)!r}")

    def inside(self, key: str) -> Fields:
        """Return the object in a field."""
        return self.nested(self.given(key), self.way(key))

    def objects(self, key: str) -> list[Fields]:
        """Return the objects of a required list; null is the empty list."""
        value = self.nullable(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(f"the field {self.way(key)!r} must be a list, not {type(value).__name__}")
        return [self.nested(item, f"{self.way(key)}[{index}]") for index, item in enumerate(value)]

    def nested(self, value: Any, path: str) -> Fields:
        if not isinstance(value, dict):
            raise self.fault(f"the field {path!r} must be an object, not {type(value).__name__}")
        return Fields(value, self.place, self.shape, path)


def checked_text(value: Any, where: str, what: str) -> str:
    """Return `value` if it is valid text. Raises SampleError, in which it is called `what`, otherwise."""
    if not isinstance(value, str):
        raise SampleError(where, f"{what} must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError(where, f"{what}: half of a character at position {error.start}") from error
    return value


def label(record: dict[str, Any], *keys: str) -> str:
    """Return the first of these fields that is a line of text, or "". `a.b` is the field b of the object a."""
    for key in keys:
        value = record
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and value and value.isprintable():
            return value
    return ""


def list_of_objects(value: Any, key: str, where: str) -> list[dict]:
    """Return a list of objects, or the JSON text of one. Raises SampleError for anything else and an empty list."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            problem = f"{key} must be a list of objects, or the JSON text of one: {error}"
            raise SampleError(where, problem) from error
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise SampleError(where, f"{key} must be a list of objects and not be empty")
    return value
