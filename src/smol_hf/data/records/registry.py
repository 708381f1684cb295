"""The registry of adapters. An adapter is found by its name, by the dataset's id, or by the record's keys."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import LEARNED_ROLES, Conversation, SampleError
from smol_hf.data.records.turn_keys import (
    IDENTIFIERS,
    UNSUPPORTED_RECORD,
    is_given,
    meant,
    refuse_misspelt,
    refuse_unseen,
    refuse_unsupported_record,
    says_something,
)
from smol_hf.support.formatting import nearest

ENTRY_POINTS = "smol_hf.adapters"


class AdapterError(ValueError):
    """A missing or broken adapter. The message names those that exist."""


class UnknownShapeError(AdapterError):
    """A record whose keys match no adapter, or several."""


@dataclass(frozen=True)
class Place:
    """The origin of a record and of its media.

    Args:
        where: name of the record (file and row), used as `sample_id` and in every message.
        media_folder: folder of relative paths of media. Without it the record must contain its media as bytes.
        inside_only: refuse paths outside `media_folder`. For untrusted records.
    """

    where: str
    media_folder: Path | None = None
    inside_only: bool = False


@dataclass(frozen=True)
class Adapter:
    """A function that reads records of one shape, see `adapter` for the fields."""

    name: str
    read: Callable[[dict[str, Any], Place], Conversation]
    datasets: tuple[str, ...] = ()
    shape: tuple[str, ...] | Callable[[dict[str, Any]], bool] | None = None
    fields: tuple[str, ...] | None = None

    def fits(self, record: dict[str, Any]) -> bool:
        """Return True for a record of this shape. A column that is null counts as missing."""
        if callable(self.shape):
            return self.shape(record)
        return self.shape is not None and all(record.get(key) is not None for key in self.shape)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring, which describes the records."""
        return (self.read.__doc__ or "").strip().partition("\n")[0]

    @property
    def package(self) -> str:
        """The package that defines it."""
        return self.read.__module__.partition(".")[0]

    def __str__(self) -> str:
        """Return the keys of its shape, for messages."""
        return " with ".join(map(repr, self.shape)) if isinstance(self.shape, tuple) else f"the keys of {self.name}"


ADAPTERS: dict[str, Adapter] = {}


def adapter(
    name: str,
    datasets: Sequence[str] = (),
    shape: tuple[str, ...] | Callable[[dict[str, Any]], bool] | None = None,
    fields: Sequence[str] | None = None,
) -> Callable:
    """Register the decorated function `(record, place) -> Conversation`.

    Args:
        name: its name in recipes.
        datasets: ids of the Hub datasets that it reads.
        shape: keys that identify its records, or a test of a record. Without it, only name and dataset select it.
        fields: keys that it uses, or that change nothing. Other keys are reported as ignored. Those that change the
            conversation (`tools`) are refused. Without `fields`, nothing is reported.

    Raises:
        AdapterError: for a name or a dataset that another adapter has.
    """

    def register(read: Callable[[dict[str, Any], Place], Conversation]) -> Callable:
        if name in ADAPTERS:
            raise AdapterError(f"there is an adapter {name!r} already: choose another name")
        for dataset in datasets:
            if (other := of_dataset(dataset)) is not None:
                raise AdapterError(f"the adapter {other.name!r} reads {dataset} already: {name!r} cannot claim it too")
        ADAPTERS[name] = Adapter(name, read, tuple(datasets), shape, None if fields is None else tuple(fields))
        return read

    return register


@functools.cache
def load_entry_points() -> dict[str, str]:
    """Import the adapters of other packages, once. Returns the errors of broken ones, by name."""
    broken = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            broken[entry.name] = f"{entry.value}: {type(error).__name__}: {error}"
        else:
            if entry.name not in ADAPTERS:
                broken[entry.name] = f"{entry.value} registers no adapter of this name"
    return broken


def known_adapters() -> tuple[str, ...]:
    """Names of all adapters, with those of other packages."""
    load_entry_points()
    return tuple(sorted(ADAPTERS))


def find_adapter(name: str | None = None, dataset: str | None = None, record: dict[str, Any] | None = None) -> Adapter:
    """Return the adapter of this name; else of this dataset (any case); else the one that matches the record's keys.

    Raises:
        AdapterError: if none is found, with the nearest name; UnknownShapeError if the record matches none or several.
    """
    if name is not None:
        return ADAPTERS[name] if name in ADAPTERS else load_adapter(name)
    if dataset is not None:
        if of_dataset(dataset) is None:
            load_entry_points()
        if (found := of_dataset(dataset)) is not None:
            return found
    if record is not None:
        return of_record(record)
    if dataset is None:
        raise AdapterError("an adapter is found by its name, by a dataset or by a record: give one of them")
    known = [each for one in ADAPTERS.values() for each in one.datasets]
    raise AdapterError(
        f"no adapter is known for the dataset {dataset!r}{nearest(dataset, known)} "
        f"(the adapters are {', '.join(known_adapters())})"
    )


def load_adapter(name: str) -> Adapter:
    """Return the adapter of a file or of another package. Raises AdapterError."""
    from smol_hf.data.records.own_file import adapter_of_file, names_a_file

    if names_a_file(name):
        return ADAPTERS[adapter_of_file(name)]
    if (problem := load_entry_points().get(name)) is not None and name not in ADAPTERS:
        raise AdapterError(f"the adapter {name!r} of another package cannot be used: {problem}")
    if name not in ADAPTERS:
        raise AdapterError(
            f"unknown adapter {name!r}{nearest(name, known_adapters())} (there are {', '.join(known_adapters())})"
        )
    return ADAPTERS[name]


def of_dataset(dataset: str) -> Adapter | None:
    for each in ADAPTERS.values():
        if dataset.casefold() in map(str.casefold, each.datasets):
            return each
    return None


def of_record(record: dict[str, Any]) -> Adapter:
    known = known_adapters()
    fitting = [ADAPTERS[name] for name in known if ADAPTERS[name].fits(record)]
    if len(fitting) > 1:
        names = ", ".join(each.name for each in fitting)
        raise UnknownShapeError(
            f"has both {' and '.join(map(str, fitting))}: keep the one that is meant, or name the adapter ({names})"
        )
    if not fitting:
        keys = {key for each in ADAPTERS.values() for key in each.fields or ()}
        wrong = [(str(key), right) for key in record if key not in keys and (right := meant(str(key), keys))]
        hint = f" ({wrong[0][0]!r}: did you mean {wrong[0][1]!r}?)" if wrong else ""
        raise UnknownShapeError(
            "needs the key 'conversations' or 'messages', or the keys of another known shape; it has "
            f"{sorted(map(str, record))}{hint}. Correct the keys, or name the adapter: one of {', '.join(known)}"
        )
    return fitting[0]


def adapt(record: Any, place: Place, name: str | None = None, dataset: str | None = None) -> Conversation:
    """Read a record with the adapter that `find_adapter` chooses.

    Raises:
        SampleError: for a missing, wrong or contradictory field.
        AdapterError: for an unknown adapter.
    """
    if not isinstance(record, dict):
        raise SampleError(place.where, f"a record is a JSON object, not {type(record).__name__}")
    try:
        chosen = find_adapter(name, dataset, record)
    except UnknownShapeError as error:
        raise SampleError(place.where, str(error)) from error
    known = record if chosen.fields is None else (*chosen.fields, *IDENTIFIERS)
    unknown = {key: value for key, value in record.items() if key not in known}
    if unknown:
        refuse_unsupported_record(unknown, place.where)
        refuse_misspelt(unknown, record, known, place.where)
    try:
        conversation = chosen.read(record, place)
    except SampleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"the adapter {chosen.name} cannot read it: {type(error).__name__}: {error}"
        raise SampleError(place.where, problem) from error
    if not isinstance(conversation, Conversation):
        raise AdapterError(f"the adapter {chosen.name!r} gave {type(conversation).__name__}, not a Conversation")
    if not any(message.role in LEARNED_ROLES for message in conversation.messages):
        raise SampleError(place.where, "no assistant turn: there is nothing to learn from it")
    ignored = [
        str(key)
        for key, value in unknown.items()
        if (says_something(value) if key in UNSUPPORTED_RECORD else is_given(value))
    ]
    if chosen.fields is not None and (unknown or conversation.ignored):
        refuse_unseen(unknown, conversation, known, place.where)
    return replace(conversation, ignored=(*conversation.ignored, *ignored)) if ignored else conversation


def catalog() -> dict[str, Any]:
    """Return a description of all adapters.

    `adapters`: name, records, identifying keys and package. `datasets` of the Hub: id, adapter and records. `broken`:
    the error of each broken adapter of another package.
    """
    adapters = [find_adapter(name) for name in known_adapters()]
    datasets = [
        {"dataset": dataset, "adapter": each.name, "records": each.summary}
        for each in adapters
        for dataset in each.datasets
    ]
    return {
        "adapters": [
            {"name": each.name, "records": each.summary, "known_by": known_by(each.shape), "package": each.package}
            for each in adapters
        ],
        "datasets": sorted(datasets, key=lambda entry: entry["dataset"].casefold()),
        "broken": dict(sorted(load_entry_points().items())),
    }


def known_by(shape: Any) -> str:
    if isinstance(shape, tuple):
        return ", ".join(shape)
    return "several keys" if callable(shape) else "name or dataset"
