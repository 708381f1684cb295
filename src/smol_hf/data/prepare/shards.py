"""Prepare data in shards: one process writes the k-th of n parts of the rows. All shards of a folder are one source.

The folder of a source has

    shard-00003-of-00016-…              the files of shard 3, as `writers` names them
    images/, videos/                    media of all shards (format llava), named by their content
    shards/preparation.json             the data and the options, equal for all shards
    shards/00003-of-00016.json          the counts and files of shard 3. It is written last, when the shard is complete
    shards/00003-of-00016-skipped.jsonl its skipped samples

A shard depends on the data, the options and its number only. So processes may run anywhere, in any order, and again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smol_hf import __version__
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.prepare.writers import WRITERS
from smol_hf.data.prepare.writing import SKIPPED, Options, reasons_in, refuse_nothing, write_source
from smol_hf.data.sources.files import is_remote, local_path
from smol_hf.data.sources.shard_records import (
    FILES,
    MOST_SHARDS,
    PREPARATION,
    SHARDS,
    describe_incomplete,
    fault_of_shard,
    incomplete_shards,
    read_preparation,
    record_name,
    shard_name,
)
from smol_hf.support.atomic import atomic_file
from smol_hf.support.cache_folders import lock_of

IN_USE = "in_use"  # the lock in the hidden folder of a running process


def rows_of_shard(rows: int, shard: tuple[int, int]) -> tuple[int, int]:
    """Return the range of the rows of a shard: (first row, row after the last)."""
    number, total = shard
    return rows * (number - 1) // total, rows * number // total


def prepare_shard(
    data: Data,
    output: Path,
    names: Sequence[str],
    shard: tuple[int, int],
    options: Options,
    advance: Callable[[], Any] | None,
) -> dict[str, Any]:
    """Write the k-th of n parts of the rows of each source. A complete shard is not written again, a damaged one is.

    The process that completes the last shard also writes the list of all skipped samples.

    Args:
        names: the folder of each source in `output`.
        shard: (k, n).

    Returns:
        `shard`, `shards`, `was_complete` (nothing was written), the numbers of the `missing` shards, and the counts of
        this shard, `sources`. If a shard is missing, `advice` says why and what to do. Otherwise `all` has the counts
        of all shards, as `prepare` returns them.

    Raises:
        ValueError: for a shard that does not exist, and for shards of other data or options in the folder.
        FileExistsError: for a folder with other files.
        SampleError: if the last shard is complete and no shard has a usable sample.
    """
    number, total = shard
    if not 1 <= number <= total <= MOST_SHARDS:
        raise ValueError(f"the shard is {number} of {total}: number them from 1 to at most {MOST_SHARDS:,}")
    folders, name = [output / each for each in names], shard_name(number, total)
    settings = [settings_of(data, index, total, options) for index in range(len(folders))]
    for folder, expected in zip(folders, settings):
        agree_on(expected, folder)
    record = record_name(number, total)
    waiting = [
        index
        for index, folder in enumerate(folders)
        if fault_of_shard(str(folder), names_in(folder), record) is not None
    ]
    for index in waiting:
        write_shard(data, index, folders[index], shard, settings[index], options, advance)
    faults: dict[int, str] = {}
    for folder in folders:
        faults |= incomplete_shards(str(folder), names_in(folder), total)
    facts = {
        "shard": number,
        "shards": total,
        "was_complete": not waiting,
        "missing": sorted(faults),
        "sources": [{"folder": each, **counts_of(output / each, name)} for each in names],
    }
    if faults:
        return {**facts, "advice": describe_incomplete(dict(sorted(faults.items())), total)}
    return {**facts, "all": join(output, names, total, options.form)}


def names_in(folder: Path) -> set[str]:
    """Return the paths in a folder of the files of its shards and of their records."""
    return {path.name for path in folder.iterdir()} | {f"{SHARDS}/{path.name}" for path in (folder / SHARDS).iterdir()}


def settings_of(data: Data, index: int, total: int, options: Options) -> dict[str, Any]:
    """Return what the files of a shard depend on, in addition to its number. It is equal on all machines."""
    source, reader = data.sources[index], data.readers[index]
    settings = {
        "shards": total,
        "source": source.name,
        "fingerprint": source.fingerprint,
        "format": options.form,
        "rows_per_shard": options.rows_per_shard,
        "verify_images": options.verify_images,
        "smol_hf": __version__,
    }
    if reader is not None:
        settings |= asdict(reader)
        settings["image_folder"] = relative_folder(settings.pop("media_folder"), source.files)
    return json.loads(json.dumps(settings, default=sorted))  # sets have no order


def relative_folder(folder: Path | None, files: Sequence[str]) -> str | None:
    """Return the path of a folder from the first file of a source, since machines may mount both elsewhere."""
    if folder is None or not files or is_remote(files[0]):
        return None if folder is None else str(folder)
    return os.path.relpath(folder, local_path(files[0]).parent)


def agree_on(settings: dict[str, Any], folder: Path) -> None:
    """Write the settings of the first shard of a folder, or compare them.

    Raises:
        ValueError: if they differ, or their file is damaged.
    """
    path = folder / SHARDS / PREPARATION
    if not path.exists():
        refuse_full(folder, SHARDS)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    earlier = read_preparation(str(folder))  # may be those of a process that started at the same time
    changed = [key for key in settings if earlier.get(key) != settings[key]]
    if changed == ["fingerprint"]:
        raise ValueError(f"the data has changed since shards were written to {folder}: name another folder")
    if changed:
        was, now = (json.dumps(each.get(changed[0])) for each in (earlier, settings))
        raise ValueError(
            f"{folder} has shards of other data or options ({changed[0]} was {was} and is now {now}): name another "
            "folder, or delete this one"
        )


def write_shard(
    data: Data,
    index: int,
    folder: Path,
    shard: tuple[int, int],
    settings: dict[str, Any],
    options: Options,
    advance: Callable[[], Any] | None,
) -> None:
    """Write the shard of one source into a hidden folder, and move its files when they are complete."""
    name = shard_name(*shard)
    with hidden_folder(folder, name) as temporary:
        rows, skipped = temporary / "rows", temporary / SKIPPED
        first, last = rows_of_shard(len(data.sources[index]), shard)
        counts = write_source(data, index, rows, skipped, options, advance, first, last)
        agree_on(settings, folder)
        files = {f"shard-{name}-{path.name}": path for path in rows.iterdir() if path.is_file()}
        sizes = {each: path.stat().st_size for each, path in sorted(files.items())}
        for path in set(folder.glob(f"shard-{name}-*")) - {folder / each for each in files}:
            path.unlink(missing_ok=True)  # of an earlier attempt
        for each, path in files.items():
            path.replace(folder / each)
        for path in rows.iterdir():  # only folders of media are left
            move_media(path, folder / path.name)
        if skipped.exists():
            skipped.replace(folder / SHARDS / f"{name}-{SKIPPED}")
        with atomic_file(folder / record_name(*shard)) as file:
            file.write_text(json.dumps({**counts, FILES: sizes}), encoding="utf-8")


@contextmanager
def hidden_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new hidden folder. It is locked before it gets a name of those that `remove_unused` removes."""
    new = Path(tempfile.mkdtemp(dir=folder, prefix=f".new-{name}."))
    hidden = new.with_name(new.name.replace(".new-", ".shard-"))
    try:
        with ExitStack() as stack:
            with suppress(OSError, NotImplementedError):  # some network disks have no locks
                stack.enter_context(lock_of(new, IN_USE))
            new.rename(hidden)
            yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_unused(folder: Path) -> None:
    """Remove the hidden folders of killed processes. Those of running processes are locked."""
    for left_over in folder.glob(".shard-*"):
        with suppress(OSError, NotImplementedError), lock_of(left_over, IN_USE, blocking=False):
            shutil.rmtree(left_over, ignore_errors=True)


def move_media(source: Path, target: Path) -> None:
    """Move the media of a shard to those of the others. Equal names have equal contents."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        try:
            path.rename(target / path.name)
        except OSError:
            if not (target / path.name).is_dir():  # frames of a video, which another shard shows too
                raise


def counts_of(folder: Path, name: str) -> dict[str, Any]:
    """Return the counts in the record of a complete shard."""
    counts = json.loads((folder / SHARDS / f"{name}.json").read_text(encoding="utf-8"))
    counts.pop(FILES, None)
    return counts


def join(output: Path, names: Sequence[str], total: int, form: str) -> list[dict[str, Any]]:
    """Write the list of the skipped samples of all shards, and return the counts of each source.

    Raises:
        SampleError: if no sample was written.
    """
    shards = [shard_name(number, total) for number in range(1, total + 1)]
    sources, lists = [], []
    for each in names:
        folder = output / each
        own = [folder / SHARDS / f"{name}-{SKIPPED}" for name in shards]
        counts = added(counts_of(folder, name) for name in shards)
        counts |= {"reasons": reasons_in(own, counts["name"]), **WRITERS[form].shared_media(folder)}
        sources.append({"folder": each, **counts})
        lists += [path for path in own if path.exists()]
        remove_unused(folder)
    if lists:
        with atomic_file(output / SKIPPED) as file, file.open("wb") as joined:
            for path in lists:
                joined.write(path.read_bytes())
    refuse_nothing(sources, output / SKIPPED)
    return sources


def added(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add numbers with the same key, also in mappings. Of other values the first is kept."""
    total: dict[str, Any] = {}
    for each in counts:
        for key, value in each.items():
            if isinstance(value, dict):
                total[key] = added([total.get(key, {}), value])
            elif isinstance(value, int):
                total[key] = total.get(key, 0) + value
            else:
                total.setdefault(key, value)
    return total


def refuse_full(folder: Path, own: str | None = None) -> None:
    """Raise FileExistsError for a file, or a folder with files. A folder with `own` in it is accepted."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if names and own not in names:
        raise FileExistsError(f"{folder} is there already: name a folder that is empty or not there yet")
