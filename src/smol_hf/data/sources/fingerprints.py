"""Digests of local files, to detect changes: of all bytes, or of samples of large files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from smol_hf.data.sources.files import is_remote, local_path
from smol_hf.support.hashing import hash_file

HASHED_WHOLE = 256 * 1024 * 1024  # bytes of all files of a source
SAMPLE, STEP = 4096, 1 << 20  # bytes that are read of a large file, and the distance between them
PARQUET_END = 8  # bytes: the footer's length and a mark


def digests_of(urls: Sequence[str]) -> list[str]:
    """Return the digest of each local file, in the order of the names."""
    paths = [local_path(url) for url in sorted(urls) if not is_remote(url)]
    return digests_of_files(paths, whole=are_read_whole(paths))


def are_read_whole(paths: Sequence[Path]) -> bool:
    """Return True if files hold at most `HASHED_WHOLE` bytes together, so that all their bytes are read."""
    return sum(path.stat().st_size for path in paths) <= HASHED_WHOLE


def digests_of_files(paths: Sequence[Path], *, whole: bool) -> list[str]:
    """Return the digest of each file: of all its bytes if `whole`, else see `sampled_digest`."""
    return [hash_file(path) if whole else sampled_digest(path) for path in paths]


def sampled_digest(path: Path) -> str:
    """SHA-256 of a file's size, of its last 4 KiB, and of the first 4 KiB of each MiB."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for place in (*range(0, size, STEP), max(size - SAMPLE, 0)):
            file.seek(place)
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def parquet_footer(url: str) -> str:
    """SHA-256 of the footer of a local parquet file: schema, places and statistics of all its pages' columns."""
    with local_path(url).open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(end - PARQUET_END, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(end - PARQUET_END - length, 0))
        return hashlib.sha256(file.read()).hexdigest()
