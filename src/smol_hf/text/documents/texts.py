"""Text files: one document each, or several that a separator splits."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import for_each, is_remote, local_path, read_range, remote_fingerprint
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of
from smol_hf.data.sources.location import COMPRESSED, compressed
from smol_hf.text.documents.document import Document, Documents, slices
from smol_hf.text.documents.plain_text import text_of

ENDS = 1 << 20  # bytes at both ends of a large file that tell that it is the one of before
_BOUNDARY = None  # stands between two documents of a file
_END = ""  # no piece is empty


class TextFiles(Documents):
    """Text files in the order of their addresses.

    Args:
        labels: address → what the file is called.
        separator: what stands between two documents of a file. After the last one it ends the file, and no document
            follows.

    Raises:
        SampleError: when there is no text in any file; when the only file is no text that can be read.
    """

    def __init__(self, name: str, labels: dict[str, str], separator: str | None = None):
        self.name, self.labels, self.separator = name, labels, separator
        self.urls = sorted(labels)
        self.remote = any(map(is_remote, self.urls))
        described = for_each(remote_fingerprint, self.urls)
        if not any(size for size, *_ in described):
            raise SampleError(name, "is empty" if len(self.urls) == 1 else "holds empty files alone")
        if len(self.urls) == 1:
            self.check(self.urls[0])
        facts = [separator, *contents(self.urls, described)]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def check(self, url: str) -> None:
        """Raises SampleError for what is seen at a file's beginning: that of the only file, before anything starts."""
        if COMPRESSED.search(url):
            raise compressed(self.labels[url])
        with contextlib.closing(text_of(url, self.labels[url])) as text:
            next(text, None)

    def __iter__(self) -> Iterator[Document | SampleError]:
        for url in self.urls:
            if COMPRESSED.search(url):
                yield compressed(self.labels[url])
            elif self.separator is None:
                yield Document(self.labels[url], WholeFile(url, self.labels[url]))
            else:
                yield from separated(text_of(url, self.labels[url]), self.separator, self.labels[url])

    def count(self) -> int:
        if self.separator is None:
            return len(self.urls)
        number = 0
        for number, document in enumerate(self, 1):  # noqa: B007
            if isinstance(document, Document):
                with contextlib.suppress(SampleError):
                    for _ in document.chunks:
                        pass
        return number


class WholeFile:
    """The text of a file in pieces, read anew each time."""

    def __init__(self, url: str, where: str):
        self.url, self.where = url, where

    def __iter__(self) -> Iterator[str]:
        return text_of(self.url, self.where)


def contents(urls: list[str], described: list[list[Any]]) -> list[Any]:
    """What tells that files are the ones of before. Local ones are known by their bytes, or where they are large by
    size, time and both ends; those elsewhere by what their store says, or where that is a size alone by both ends."""
    facts: list[Any] = digests_of(urls)
    hashed = are_read_whole([local_path(url) for url in urls if not is_remote(url)])
    for url, (size, *marks) in zip(urls, described):
        if not is_remote(url):
            marks = [] if hashed else [local_path(url).stat().st_mtime_ns, digest_of_ends(url, size)]
        elif not marks:
            marks = [digest_of_ends(url, size)]
        facts.append([size, *marks])
    return facts


def digest_of_ends(url: str, size: int) -> str:
    ends = read_range(url, 0, min(ENDS, size)) + read_range(url, max(size - ENDS, 0), size)
    return hashlib.sha256(ends).hexdigest()


class OnePass:
    """The pieces of one of several documents of a file: read once, before the next document."""

    def __init__(self, where: str, chunks: Iterator[str]):
        self.where, self.chunks, self.passed = where, chunks, False

    def __iter__(self) -> Iterator[str]:
        if self.passed:
            raise RuntimeError(f"{self.where} was passed by: read a document before the next one")
        return self.chunks


def separated(text: Iterable[str], separator: str, label: str) -> Iterator[Document | SampleError]:
    """The documents of a file, called `label:1`, `label:2`, …"""
    stream, number = split(text, separator), 0
    while True:
        number += 1
        where = f"{label}:{number}"
        try:
            first = next(stream, _END)
        except SampleError as error:
            yield SampleError(where, error.problem)
            return
        if first is _END:
            if number == 1:
                yield Document(where, ())
            return
        chunks = OnePass(where, until_boundary(first, stream, where))
        yield Document(where, chunks)
        chunks.passed = True
        try:
            for _ in chunks.chunks:  # what its reader left
                pass
        except SampleError as error:
            yield error


def until_boundary(piece: str | None, stream: Iterator[str | None], where: str) -> Iterator[str]:
    while piece is not _BOUNDARY:
        yield piece
        try:
            piece = next(stream, _BOUNDARY)
        except SampleError as error:
            raise SampleError(where, error.problem) from error


def split(text: Iterable[str], separator: str) -> Iterator[str | None]:
    """The text in pieces, and None for each separator: as `str.split` finds them, also where pieces meet."""
    rest = ""
    for chunk in text:
        *whole, rest = (rest + chunk).split(separator)
        for part in whole:
            yield from slices(part)
            yield _BOUNDARY
        ready = max(len(rest) - len(separator) + 1, 0)  # a separator may have begun after this
        yield from slices(rest[:ready])
        rest = rest[ready:]
    yield from slices(rest)
