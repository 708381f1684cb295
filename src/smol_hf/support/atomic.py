"""Files and folders that get their names in one step, when they are complete."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".incomplete"
DIGITS = 8  # of a unique name
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def incomplete_name(path: Path) -> Path:
    """Return a hidden, unique path next to `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:DIGITS]}{SUFFIX}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to. It replaces `path`, or the file behind a link, at the end of the block.

    After an error `path` is unchanged.

    Raises:
        OSError: of the block; on a full disk it names `path`.
    """
    target = path.resolve()
    incomplete = incomplete_name(target)
    try:
        yield incomplete
        os.replace(incomplete, target)
    except OSError as error:
        if error.errno in FULL:  # `write` names no file
            error.filename = str(path)
        raise
    finally:
        incomplete.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write to. It becomes `path` at the end of the block; after an error it is removed.

    Its files get the mode of any new file.

    Args:
        replace: remove an older folder at `path`, and incomplete folders of killed attempts. Only one process may
            then write `path`. Otherwise `path` must be missing or empty.

    Raises:
        OSError: if `path` is not empty at the end of the block and `replace` is false.
    """
    path = path.resolve()  # the target of a link
    with parents_of(path):
        if replace:
            remove_left_overs(path)
        incomplete, former = incomplete_name(path), incomplete_name(path)
        incomplete.mkdir()
        try:
            yield incomplete
            give_usual_modes(incomplete)
            if replace and path.exists():
                path.rename(former)
            incomplete.rename(path)
        finally:
            if former.exists() and not path.exists():
                former.rename(path)
            shutil.rmtree(incomplete, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Make the missing folders above `path`. After an error the empty ones among them are removed."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # not empty
                parent.rmdir()
        raise


def remove_left_overs(path: Path) -> None:
    """Remove incomplete folders of killed attempts to write `path`. No other process may be writing it."""
    for left_over in incomplete_of(path):
        shutil.rmtree(left_over, ignore_errors=True)


def incomplete_of(path: Path) -> list[Path]:
    """Return what running or killed attempts to write `path` have written, see `incomplete_name`."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * DIGITS}{SUFFIX}"))


def give_usual_modes(folder: Path) -> None:
    """Give a folder and its files the usual modes. safetensors writes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
    folder.chmod(0o777 & ~mask)
