"""What tells that local files are the ones of before: their bytes, or where they are large their indexes alone."""

from __future__ import annotations

import hashlib

from smol_hf.data.engine.files import is_remote, local_path

HASHED_WHOLE = 256 * 1024 * 1024  # bytes of all files of a source
CHUNK = 1 << 20
PARQUET_END = 8  # bytes: the footer's length and a mark


def digests_of(urls: list[str]) -> list[str]:
    """SHA-256 of each local file, in the order of the names, where they hold at most `HASHED_WHOLE` bytes together;
    otherwise nothing."""
    paths = [local_path(url) for url in sorted(urls) if not is_remote(url)]
    if sum(path.stat().st_size for path in paths) > HASHED_WHOLE:
        return []
    return [digest_of(path) for path in paths]


def digest_of(path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def parquet_footer(url: str) -> str:
    """SHA-256 of the footer of a local parquet file: schema, places and statistics of all its pages' columns."""
    with local_path(url).open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(end - PARQUET_END, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(end - PARQUET_END - length, 0))
        return hashlib.sha256(file.read()).hexdigest()
