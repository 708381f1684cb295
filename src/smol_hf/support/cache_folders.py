"""A folder of caches: each is made by one process at a time, whole or not at all, and what a killed one left goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS = ".locks"
UNFINISHED = ".unfinished"


def lock_of(folder: Path, key: str, **options) -> FileLock:
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCKS / f"{key}.lock", **options)  # a killed process holds none


@contextmanager
def making(folder: Path, key: str) -> Iterator[Path | None]:
    """The folder to write the cache `key` into, which becomes `folder / key` when all went well; None where another
    process made it, which is waited for."""
    remove_left_over(folder)
    with lock_of(folder, key):
        place, unfinished = folder / key, folder / f"{key}{UNFINISHED}"
        if place.is_dir():
            yield None
            return
        try:
            yield unfinished
            unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_left_over(folder: Path) -> None:
    """Remove what was being written when its process was killed."""
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        try:
            with lock_of(folder, unfinished.name.removesuffix(UNFINISHED), blocking=False):
                shutil.rmtree(unfinished, ignore_errors=True)
        except Timeout:  # it is being written
            continue
