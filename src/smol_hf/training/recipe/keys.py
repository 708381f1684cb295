"""The declaration of a recipe's key: help, accepted values, kinds of runs, and behaviour on resumption.

A key of ours is a field of a dataclass, made by `key(...)`. Keys of TRL and transformers are in `inherited_keys`.
"""

from __future__ import annotations

import enum
import math
import operator
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from smol_hf.support.key_values import type_problem


class OnResume(enum.Enum):
    """Effect of another value of a key on a resumed run."""

    REPEAT = "must repeat"  # another value is refused
    CHANGE = "may change"  # from the checkpoint's step on; the run and its card record it
    DATA = "compared by the fingerprint of the data"  # other data is refused, another path to the same is not
    ROWS = "rows of a step must repeat"  # their product with the number of processes is compared
    FREE = "may change, without an effect on what is learned"  # not recorded


class Runs(enum.Flag):
    """Kinds of runs, by their data."""

    CONVERSATIONS = enum.auto()
    DOCUMENTS = enum.auto()
    PREFERENCES = enum.auto()

    @property
    def command(self) -> str:
        """Name the attribute of `Key` with the reason why the command of these runs refuses a key."""
        return "dpo" if self == Runs.PREFERENCES else "train"

    def __str__(self) -> str:
        return " and ".join(str(each.name).lower() for each in self)


TRAIN = Runs.CONVERSATIONS | Runs.DOCUMENTS
ALL = TRAIN | Runs.PREFERENCES


@dataclass(frozen=True)
class Key:
    """Treatment of a key.

    Attributes:
        resume: effect of another value on a resumed run.
        runs: kinds of runs in which the key has an effect.
        least, above, below, most: bounds of a number.
        wanted: the bounds in words, if "it must be at least ..." says too little.
        values: if given, the only values that work.
        allowed: values of a refused key that are accepted because they change nothing.
        excluded_by: keys that exclude this one.
        needs: name in `inherited_checks.CONDITIONS` of a condition without which the key has no effect.
        strategy: the key of a strategy, and its values with which this key has an effect.
        recorded: True if the saved recipe of a run contains the key even if it was not given.
        train, dpo: reason why `train` (and `pretrain`) or `dpo` refuses the key; "" = it works.
    """

    resume: OnResume = OnResume.REPEAT
    runs: Runs = ALL
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    wanted: str = ""
    values: tuple = ()
    allowed: tuple = ()
    excluded_by: tuple[str, ...] = ()
    needs: str | None = None
    strategy: tuple[str, ...] = ()
    recorded: bool = False
    train: str = ""
    dpo: str = ""

    @property
    def bounds(self) -> dict[str, float]:
        """Return words and numbers, such as {"at least": 0, "below": 1}."""
        words = {"at least": self.least, "above": self.above, "below": self.below, "at most": self.most}
        return {word: number for word, number in words.items() if number is not None}

    def crossed(self, value: Any) -> dict[str, float]:
        """Return the bounds that a number violates; all of them for NaN and infinity."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return {}
        if not math.isfinite(value):
            return self.bounds
        outside = {"at least": operator.lt, "above": operator.le, "below": operator.ge, "at most": operator.gt}
        return {word: number for word, number in self.bounds.items() if outside[word](value, number)}


def key(default: Any, text: str, **options: Any) -> Any:
    """Make a field of a recipe's dataclass.

    Args:
        default: the value, or a function that makes it.
        text: help.
        options: attributes of `Key`.
    """
    metadata = {"help": text, "key": Key(**{"recorded": True, **options})}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(entry: Field) -> Any:
    """Return the default of a field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def in_words(bounds: dict[str, float]) -> str:
    """Return bounds as text, such as "at least 0 and below 1"; "" for none."""
    return " and ".join(f"{word} {number:,}" for word, number in bounds.items())


def own_keys(arguments: Any) -> Iterable[tuple[Field, Key]]:
    """Return the fields of a dataclass, or of its instance, that `key` made."""
    return ((entry, entry.metadata["key"]) for entry in fields(arguments) if "key" in entry.metadata)


def given(arguments: Any, chosen: Callable[[Key], Any]) -> list[str]:
    """Name the chosen keys of ours whose value is not their default."""
    keys = own_keys(arguments)
    return [each.name for each, key in keys if chosen(key) and getattr(arguments, each.name) != default_of(each)]


def refuse_excluded(arguments: Any, other: str, reason: str) -> None:
    """Refuse keys that were given although `other` excludes them. Raises ValueError."""
    if names := given(arguments, lambda key: other in key.excluded_by):
        raise ValueError(f"{other} and {' and '.join(names)} exclude each other: {reason}")


def refuse_other_runs(recipe: dict[str, Any], classes: tuple[type, ...], runs: Runs) -> None:
    """Refuse keys of a recipe that have no effect in its kind of run. Raises ValueError."""
    for entry, key in (each for arguments in classes for each in own_keys(arguments)):
        if runs not in key.runs and recipe.get(entry.name, default_of(entry)) not in (None, default_of(entry)):
            raise ValueError(f"{entry.name} has no effect in a run over {runs}, only over {key.runs}: leave it out")


def check_values(arguments: Any) -> None:
    """Refuse values of our keys that are null, of another type, or outside their bounds. Raises ValueError."""
    types = typing.get_type_hints(type(arguments))
    for entry, key in own_keys(arguments):
        check_value(entry.name, getattr(arguments, entry.name), key, types[entry.name])


def check_value(name: str, value: Any, key: Key, annotation: Any) -> None:
    """Refuse a value that is null, of another type, or outside the bounds of its key. Raises ValueError."""
    if value is None and type(None) not in typing.get_args(annotation):
        raise ValueError(f"{name} is null: it needs a value; leave the line out for the default")
    problem = type_problem(value, annotation)
    if value is not None and not problem:
        if key.values and value not in key.values:
            names = [str(each) for each in key.values]
            problem = f"choose {' or '.join(names)}" if len(names) == 2 else f"choose one of {', '.join(names)}"
        elif crossed := key.crossed(value):
            problem = key.wanted or f"it must be {in_words(crossed)}"
    if problem:
        raise ValueError(f"{name} is {value!r}: {problem}")
