"""What the dataclasses of a recipe's keys share."""

from __future__ import annotations

import typing
from dataclasses import MISSING, fields

from smol_hf.data.key_values import base_of, type_problem


def default_of(entry):
    """The default of a field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def require_values(arguments) -> None:
    """Raises ValueError, naming the key, where a recipe says null and a value is needed, and for a value of another
    type than the key's."""
    types = typing.get_type_hints(type(arguments))
    for entry in fields(arguments):
        value = getattr(arguments, entry.name)
        if value is None and entry.default is not None:
            raise ValueError(
                f"{entry.name} is null: it needs a value, or leave the line out for {default_of(entry)!r}"
            )
        if problem := type_problem(value, types[entry.name]):
            raise ValueError(f"{entry.name} is {value!r}: {problem}")


def refuse_unquoted(recipe: dict[str, typing.Any], classes: tuple[type, ...]) -> None:
    """Raises ValueError where the value of a key is text and YAML read a number, a date, true or false: written out
    again it need not be what stood there (`007`, `1e3`)."""
    for arguments in classes:
        for name, annotation in typing.get_type_hints(arguments).items():
            value, wanted = recipe.get(name), base_of(annotation)
            if (wanted is not str and wanted != list[str]) or isinstance(value, str):  # one text is a list, too
                continue
            if problem := type_problem(value, wanted):
                raise ValueError(f"{name} is {value!r}: {problem}")
