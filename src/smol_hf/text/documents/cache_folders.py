"""A folder of caches: one process at a time makes each, and an unfinished one is removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCKS = ".locks"
UNFINISHED = ".unfinished"


def lock_of(folder: Path, key: str, **options) -> FileLock:
    """Return the lock of a cache. The operating system releases the lock of a killed process."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCKS / f"{key}.lock", **options)


@contextmanager
def making(folder: Path, key: str) -> Iterator[Path | None]:
    """Yield the folder to write the cache `key` into; it becomes `folder / key` if no error is raised.

    Yields None after waiting for another process that made the cache.
    """
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
    """Remove the unfinished caches of killed processes."""
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        try:
            with lock_of(folder, unfinished.name.removesuffix(UNFINISHED), blocking=False):
                shutil.rmtree(unfinished, ignore_errors=True)
        except Timeout:  # it is being written
            continue
