"""Local files and files of fsspec: open, read ranges, find by pattern, identify.

No connection is kept: each process opens the files that it reads.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import posixpath
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations
from huggingface_hub import cached_assets_path
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  of its HTTP library

from smol_hf.support.atomic import atomic_file

READ_AHEAD = 4 * 1024 * 1024  # bytes of each request for a remote file that is read from the start
AT_ONCE = 16  # remote files that are inspected at the same time
BRACES = re.compile(r"\{([^{}]*)\}")
SPAN = re.compile(r"(\d+)\.\.(\d+)")
# Keys of fsspec's `info` that change with the content, the most reliable first.
CONTENT_MARKS = (
    "xet_hash", "blob_id", "lfs", "ETag", "etag", "md5Hash", "md5", "crc32c", "content_md5", "checksum", "mtime",
    "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
NETWORK_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"), ("asyncio", "TimeoutError"),
)  # fmt: skip


class UnreachableError(RuntimeError):
    """A file that cannot be read now, for example without a network. Its samples do not count as faults."""


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    return Path(re.sub(r"^(file|local)://", "", url))


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that `folder` is on, or will be."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def file_name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def labels_of(urls: list[str]) -> dict[str, str]:
    """Return the label of each file in the names of its samples: its name, or its path if names repeat."""
    names = {url: file_name(url) for url in urls}
    if len(set(names.values())) == len(names):
        return names
    root = posixpath.commonpath([posixpath.dirname(url) for url in urls])
    return {url: posixpath.relpath(url, root) for url in urls}


def file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(file system, path in it). fsspec keeps one for each process and thread, so none is kept here.

    Raises:
        ValueError: for an unknown protocol. ImportError: for a missing package, with its name.
    """
    protocol = url.partition("://")[0]
    if is_remote(url) and protocol not in fsspec.available_protocols():
        raise ValueError(f"{url}: unknown protocol {protocol!r}: use s3://, gs://, hf:// or a path")
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = known_implementations.get(protocol, {"class": protocol})["class"].partition(".")[0]
        advice = f"pip install {package}" if package != "fsspec" else str(error)
        raise ImportError(f"{url} needs a package that is not installed: {advice}") from error


class RemoteFile:
    """A file of fsspec. Network failures raise `UnreachableError`, after the retries of the file system's library."""

    def __init__(self, url: str, ahead: bool):
        self.url = url
        system, path = file_system(url)
        cache = {"cache_type": "readahead", "block_size": READ_AHEAD} if ahead else {"cache_type": "none"}
        with reaching(url):
            self.inner = system.open(path, "rb", **cache)

    def read(self, size: int = -1) -> Any:
        with reaching(self.url):
            return self.inner.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.inner.close()


def network_errors() -> tuple[type[BaseException], ...]:
    """Return the network errors of the loaded libraries, which have no common class."""
    loaded = [getattr(sys.modules[module], name) for module, name in NETWORK_ERRORS if module in sys.modules]
    return (OSError, TimeoutError, HTTPError, *loaded)


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Raise network errors as `UnreachableError`, and FileNotFoundError for a missing file, with the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the data file {url} does not exist") from error
    except network_errors() as error:
        what = f"{type(error).__name__}: {error}"
        raise UnreachableError(
            f"{url} cannot be read ({what}); once it can, a run goes on from its checkpoint"
        ) from error


def open_file(url: str, *, ahead: bool = False) -> BinaryIO:
    """Open a seekable binary file. `ahead`: it will be read from the start.

    Raises:
        OSError: for a local file. FileNotFoundError, UnreachableError: for a remote one.
    """
    return cast(BinaryIO, RemoteFile(url, ahead)) if is_remote(url) else local_path(url).open("rb")


def read_range(url: str, start: int, end: int) -> bytes:
    """Read the bytes from `start` up to `end`, and no others of a remote file. Raises as `open_file`."""
    if not is_remote(url):
        with open_file(url) as file:
            file.seek(start)
            return file.read(end - start)
    system, path = file_system(url)
    with reaching(url):
        # File systems without range requests would read ahead.
        return cast(
            bytes, system.cat_file(path, start=start, end=end, **({} if system.async_impl else {"cache_type": "none"}))
        )


def remote_fingerprint(url: str) -> list[Any]:
    """Return the size of a remote file and its store's mark of the content, without reading it."""
    system, path = file_system(url)
    with reaching(url):
        info = system.info(path)
    marks = [str(info[key]) for key in CONTENT_MARKS if info.get(key)]
    return [info.get("size"), *marks[:1]]


def for_each(function: Callable[[str], Any], urls: list[str]) -> list[Any]:
    """Return the result of a function for each file, in order; for remote files, several run at once."""
    if not any(map(is_remote, urls)):
        return [function(url) for url in urls]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, urls))


def has_pattern(text: str) -> bool:
    return bool(BRACES.search(text)) or glob.has_magic(text)


def expand_braces(pattern: str) -> list[str]:
    """Expand `a{0..2}` to a0, a1, a2 (with the leading zeros of the first number), and `{x,y}` to x, y."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    span = SPAN.fullmatch(match.group(1))
    if span:
        first, last = span.groups()
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match.group(1).split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(itertools.chain.from_iterable(expand_braces(before + choice + after) for choice in choices))


def find_files(pattern: str) -> list[str]:
    """Return the files of a pattern (`shard-{00000..00009}.tar`, `*.parquet`), sorted.

    Raises:
        FileNotFoundError: if no file matches, or a file of a brace pattern is missing.
    """
    found = []
    for each in expand_braces(pattern):
        system, path = file_system(each)
        with reaching(each):
            candidates = system.glob(path) if glob.has_magic(each) else [path]
            paths = [path for path in candidates if system.isfile(path)]
        if not paths:
            raise FileNotFoundError(f"there is no data file {each}" + (f" (of {pattern})" if each != pattern else ""))
        found += [system.unstrip_protocol(str(path)) if is_remote(each) else path for path in paths]
    return sorted(set(found))


def list_folder(url: str) -> list[str]:
    """All files in a folder and the folders in it, sorted. Hidden ones are left out."""
    system, path = file_system(url)
    root = path.rstrip("/")
    with reaching(url):
        found = sorted(system.find(root))
    inside = [(each, each.removeprefix(root).lstrip("/")) for each in found]
    seen = [each for each, name in inside if not any(part.startswith((".", "__")) for part in name.split("/"))]
    return [system.unstrip_protocol(each) for each in seen] if is_remote(url) else seen


def remembered(url: str, kind: str, build: Callable[[], Any]) -> Any:
    """Return the result of `build` (JSON), from this machine's cache for an unchanged remote file.

    Args:
        kind: name and version of the result.
    """
    facts = remote_fingerprint(url) if is_remote(url) else []
    if len(facts) < 2 or url.startswith("memory://"):
        return build()
    name = hashlib.sha256(json.dumps([kind, url, facts]).encode()).hexdigest()
    path = cached_assets_path("smol_hf", "index") / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    built = build()
    # A full or read-only disk does not stop the run.
    with contextlib.suppress(OSError), atomic_file(path) as file:
        file.write_text(json.dumps(built), encoding="utf-8")
    return built
