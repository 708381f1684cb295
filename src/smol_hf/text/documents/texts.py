"""Text files: one document each, or several with a separator between them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import for_each, is_remote, local_path, read_range, remote_fingerprint
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of
from smol_hf.data.sources.location import COMPRESSED, compressed
from smol_hf.text.documents.document import Document, Documents, slices
from smol_hf.text.documents.plain_text import text_of

ENDS = 1 << 20  # bytes at both ends of a large file that are compared


class TextFiles(Documents):
    """Text files in the order of their URLs.

    Args:
        labels: URL → name of the file.
        separator: the text between two documents of a file. At the end of a file no document follows it.

    Raises:
        SampleError: if all files are empty; if the only file is not text.
    """

    def __init__(self, name: str, labels: dict[str, str], separator: str | None = None):
        self.name, self.labels, self.separator = name, labels, separator
        self.urls = sorted(labels)
        self.remote = any(map(is_remote, self.urls))
        described = for_each(remote_fingerprint, self.urls)
        if not any(size for size, *_ in described):
            raise SampleError(name, "is empty" if len(self.urls) == 1 else "holds only empty files")
        if len(self.urls) == 1:
            if COMPRESSED.search(self.urls[0]):
                raise compressed(labels[self.urls[0]])
            next(text_of(self.urls[0], labels[self.urls[0]]), None)
        facts = [separator, *contents(self.urls, described)]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document | SampleError]:
        for url in self.urls:
            if COMPRESSED.search(url):
                yield compressed(self.labels[url])
            elif self.separator is None:
                yield Document(self.labels[url], text_of(url, self.labels[url]))
            else:
                yield from separated(text_of(url, self.labels[url]), self.separator, self.labels[url])

    def count(self) -> int:
        if self.separator is None:
            return len(self.urls)
        return sum(1 for _ in self)


def contents(urls: list[str], described: list[list[Any]]) -> list[Any]:
    """Return facts that change with the content of the files.

    Local files are identified by their bytes; large ones by size, time and both ends. Remote files are identified by
    the facts of their store, or by both ends if it only knows the size.
    """
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


def separated(text: Iterable[str], separator: str, label: str) -> Iterator[Document | SampleError]:
    """Yield the documents of a file, named `label:1`, `label:2` and so on."""
    number = 0
    try:
        for is_text, group in itertools.groupby(split(text, separator), key=lambda piece: piece is not None):
            if is_text:
                number += 1
                yield Document(f"{label}:{number}", named(group, f"{label}:{number}"))
                with contextlib.suppress(SampleError):
                    for _ in group:  # the unread rest
                        pass
                continue
            # A document is empty before the first separator, and between two of them.
            for empty, _ in enumerate(group, start=int(number == 0)):
                if empty:
                    number += 1
                    yield Document(f"{label}:{number}", ())
    except SampleError as error:
        yield SampleError(f"{label}:{number + 1}", error.problem)
    else:
        if number == 0:
            yield Document(f"{label}:1", ())


def named(chunks: Iterable[Any], where: str) -> Iterator[str]:
    """Yield the chunks of a document. An error names the document instead of the file."""
    try:
        yield from chunks
    except SampleError as error:
        raise SampleError(where, error.problem) from error


def split(text: Iterable[str], separator: str) -> Iterator[str | None]:
    """Yield the text in pieces, and None for each separator, also for one across two chunks."""
    rest = ""
    for chunk in text:
        *whole, rest = (rest + chunk).split(separator)
        for part in whole:
            yield from slices(part)
            yield None
        ready = max(len(rest) - len(separator) + 1, 0)  # a separator may have begun after this
        yield from slices(rest[:ready])
        rest = rest[ready:]
    yield from slices(rest)
