"""Records of the shards in a folder, see `data/prepare/shards`. They tell which shards are complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import for_each, is_remote, local_path, open_file, remote_fingerprint

SHARDS, PREPARATION = "shards", "preparation.json"  # what `prepare` records about the shards of a folder
FILES = "files"  # key of a record: the bytes of each file of the shard
COUNTS = {"name", "records", "written", "left_out"}  # other keys of each record
MOST_SHARDS = 99_999
SHARDS_SHOWN = 10


def shard_name(number: int, total: int) -> str:
    return f"{number:05d}-of-{total:05d}"


def record_name(number: int, total: int) -> str:
    """Return the path of a record in the folder of its shard."""
    return f"{SHARDS}/{shard_name(number, total)}.json"


def read_preparation(root: str) -> dict[str, Any]:
    """Return what the shards of a folder depend on, such as their number, `shards`.

    Raises:
        SampleError: for a damaged file.
    """
    url = f"{root}/{SHARDS}/{PREPARATION}"
    settings = json_object(url)
    total = settings.get("shards")
    if type(total) is not int or not 1 <= total <= MOST_SHARDS:
        raise SampleError(url, "is damaged: delete it, and run the same smol-hf data prepare with --shard again")
    return settings


def json_object(url: str) -> dict[str, Any]:
    """Read a JSON object. It is empty for a damaged file."""
    with open_file(url) as file:
        content = file.read()
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def incomplete_shards(root: str, names: Set[str], total: int) -> dict[int, str]:
    """Return the number of each incomplete shard with its fault, which is empty if only the record is missing.

    Args:
        names: the paths in the folder `root` of its files.
    """
    records = [f"{root}/{record_name(number, total)}" for number in range(1, total + 1)]
    faults = for_each(lambda url: fault_of_shard(root, names, url.removeprefix(f"{root}/")), records)
    return {number: fault for number, fault in enumerate(faults, start=1) if fault is not None}


def fault_of_shard(root: str, names: Set[str], record: str) -> str | None:
    """Compare the files of a shard with its record. Records of earlier versions list no files."""
    if record not in names:
        return ""
    facts = json_object(f"{root}/{record}")
    files = facts.get(FILES, {})
    if not facts.keys() >= COUNTS or not isinstance(files, dict):
        return f"its record {root}/{record} is damaged"
    for name, size in files.items():
        url = f"{root}/{name}"
        if name not in names:
            return f"its file {url} is not there"
        found = remote_fingerprint(url)[0] if is_remote(url) else local_path(url).stat().st_size
        if found not in (size, None):  # not every remote store tells the size
            return f"its file {url} has {found} bytes instead of {size}"
    return None


def describe_incomplete(faults: Mapping[int, str], total: int) -> str:
    """Name incomplete shards with the first fault, and say how to make them."""
    numbers = list(faults)
    shown = ", ".join(map(str, numbers[:SHARDS_SHOWN])) + (", …" if len(numbers) > SHARDS_SHOWN else "")
    which = "shard {} of {} is" if len(numbers) == 1 else "shards {} of {} are"
    options = f"--shard {numbers[0]}/{total}" + (" and the others" if len(numbers) > 1 else "")
    number, fault = next(((number, fault) for number, fault in faults.items() if fault), (0, ""))
    why = f" (shard {number}: {fault})" if len(numbers) > 1 else f" ({fault})"
    return (
        f"{which.format(shown, total)} missing{why if fault else ''}: run the same smol-hf data prepare with {options}"
    )
