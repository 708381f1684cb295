"""Folders of caches. One process at a time writes a cache, which appears when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """Yield the folder to write the cache `key` into. Without an error it becomes `folder / key`.

    Waits for another process that writes the same cache, and then yields None.
    """
    for left_over in folder.glob(f"*{UNFINISHED}"):  # of killed processes
        with suppress(Timeout), lock_of(folder, left_over.name.removesuffix(UNFINISHED), blocking=False):
            shutil.rmtree(left_over, ignore_errors=True)
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
