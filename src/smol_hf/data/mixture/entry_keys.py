"""Checks of the keys of a mixture's entry, before anything is opened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from smol_hf.data.conversation import MODALITIES
from smol_hf.data.records import find_adapter
from smol_hf.data.records.filters import Filters
from smol_hf.data.records.media import DOWNLOAD_FIRST
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.sources.location import refuse_dataset_keys
from smol_hf.support.key_values import is_name, type_problem

LEAST_WEIGHT, MOST_WEIGHT = 1e-9, 1e6
MOST_RECORDS = 10**12
OF_THE_HUB = ("config", "split", "revision", "download")
DELETED_KEYS = ("fetch_images", "fetch_timeout", "fetch_cache")  # of recipes that older versions wrote


def without_deleted_keys(keys: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe or an entry without the keys of older versions. Raises ValueError for one with an effect."""
    if keys.get("fetch_images"):
        raise ValueError(f"fetch_images is not a key any more: {DOWNLOAD_FIRST}")
    return {key: value for key, value in keys.items() if key not in DELETED_KEYS}


def check_entry(keys: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    """Check the values of an entry's keys.

    Args:
        keys: known keys with their values.
        types: of each key.
        where: name of the entry, for messages.

    Raises:
        ValueError: for a wrong value, with the entry and the key.
    """
    if not isinstance(keys.get("data"), str) or not is_name(keys["data"]):
        raise ValueError(f"{where}: lacks the key 'data', a file or folder" if keys.get("data") is None else
                         f"{where}: data is {keys['data']!r}: it must be the name of a file or folder")  # fmt: skip
    for key, value in keys.items():
        if problem := value_problem(key, value, types[key]):
            raise ValueError(f"{where}: {key} is {'null' if value is None else repr(value)}: {problem}")
    if "weight" in keys and "samples" in keys:
        raise ValueError(f"{where}: weight and samples exclude each other: the one is a share, the other a number")
    if "{" not in keys["data"] and hub_id(keys["data"]) is None:  # {data_root} is not known yet
        with named(where):
            refuse_dataset_keys(keys["data"], **{key: keys.get(key) for key in OF_THE_HUB})
    with named(f"{where}: filters"):
        Filters.from_mapping(keys.get("filters") or {})
    if keys.get("adapter") is not None:
        with named(f"{where}: adapter"):
            find_adapter(keys["adapter"])


def refuse_shares(entries: list[Any], where: str) -> None:
    """Raise ValueError for an entry with a share, if each sample of a mixture is used once."""
    for number, entry in enumerate(entries, start=1):
        for key in ("weight", "samples"):
            if isinstance(entry, dict) and key in entry:
                problem = f"{key} has no effect, since each sample is used once: leave it out"
                raise ValueError(f"{where}, entry {number}: {problem}")


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Name the place of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def value_problem(key: str, value: Any, annotation: Any) -> str | None:
    """Return the problem of one key's value, if any."""
    if key in ("samples", "available"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= MOST_RECORDS):
            return f"it must be a whole number of records, 1 or more, at most {MOST_RECORDS:,}"
        return None
    if key == "weight":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and LEAST_WEIGHT <= value <= MOST_WEIGHT):
            return f"it must be a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:,.0f}"
        return None
    if key == "modality":
        return None if value in (None, *MODALITIES) else f"choose one of {', '.join(MODALITIES)}"
    if value is None and key in ("filters", "download", "ignore_fields"):
        return "it needs a value, or leave the key out"
    if problem := type_problem(value, annotation):
        return problem
    if isinstance(value, str) and not is_name(value):
        return "it must be text of one line, and not empty"
    return None
