"""What the dataclasses of a recipe's keys share."""

from __future__ import annotations

from dataclasses import MISSING, fields


def default_of(entry):
    """The default of a field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def require_values(arguments) -> None:
    """Raises ValueError, naming the key, where a recipe says null and a value is needed."""
    for entry in fields(arguments):
        if getattr(arguments, entry.name) is None and entry.default is not None:
            raise ValueError(
                f"{entry.name} is null: it needs a value, or leave the line out for {default_of(entry)!r}"
            )
