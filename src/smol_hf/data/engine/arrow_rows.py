"""The rows of an Arrow table as Python values, also of one that holds values which Python has no place for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow

# A date after the year 9999, a struct with a field twice, text that is not UTF-8.
NO_VALUE = (pyarrow.ArrowException, ValueError, OverflowError)


@dataclass(frozen=True)
class Unreadable:
    """Stands in a record for a value that cannot be one in Python. Adapters that need the field refuse it by name, as
    any value of a wrong type; null would look as if the field were empty."""

    reason: str

    def __repr__(self) -> str:
        return f"<unreadable: {self.reason}>"


def rows_of(table: pyarrow.Table) -> list[dict[str, Any]]:
    """The rows; in them an `Unreadable` for each value that cannot be read."""
    names = table.column_names
    try:
        return table.to_pylist()
    except NO_VALUE:
        columns = [values_of(table.column(number)) for number in range(len(names))]
        return [dict(zip(names, row)) for row in zip(*columns)]


def values_of(column: pyarrow.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except NO_VALUE:
        return [value_of(column[row]) for row in range(len(column))]


def value_of(scalar: pyarrow.Scalar) -> Any:
    try:
        return scalar.as_py()
    except NO_VALUE as error:
        return Unreadable(str(error))
