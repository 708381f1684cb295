"""Documents in pieces: the interface of all readers, and one pass over the texts of several sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from smol_hf.data.conversation import SampleError

CHUNK = 1 << 18  # characters, at most, of a piece
PIECE = 1 << 14  # the same of a piece that begins with a word


@dataclass(frozen=True)
class Document:
    """One document, which may be larger than the memory.

    Attributes:
        where: its name in messages: `corpus.jsonl:12`, `notes/a.txt`, `book.txt:3` (the third document of a
            file with a separator).
        chunks: its text in order, in pieces of 1 to `CHUNK` characters. They can be read once, before the next
            document. Reading them may raise SampleError.
    """

    where: str
    chunks: Iterable[str]


class Documents(ABC):
    """The documents of one location, in the order of its files.

    Attributes:
        name: of the location.
        fingerprint: changes with the content and with the settings of the reader.
        remote: whether they come over a network.
        revision: the commit of a dataset of the Hub.
    """

    name: str
    fingerprint: str
    remote: bool = False
    revision: str | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Document | SampleError]:
        """Yield each document, or a SampleError in its place.

        Raises:
            UnreachableError: if a remote file cannot be read now.
            SampleError: if a whole file is unreadable.
        """

    @abstractmethod
    def count(self) -> int:
        """Count the documents and errors of `__iter__`. Texts with a separator are read through for it."""


def slices(text: str) -> Iterator[str]:
    """Yield the text in pieces of at most `CHUNK` characters."""
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK]


class Reading:
    """One pass over the texts of all sources. They take turns, so that each gives about the same up to `max_bytes`.

    Args:
        max_bytes: limit of the UTF-8 bytes that are read.
        advance: called with the bytes of each piece.
        kept: bytes of the first pieces to keep in `sample`.

    Attributes:
        documents, empty, bytes: numbers of documents read, of empty ones, and of bytes.
        all_read: whether all sources came to their ends.
        sample: the first pieces; `sampled`: their bytes.

    Raises:
        SampleError: while it is iterated, for the first record without a document.
    """

    def __init__(
        self,
        sources: Sequence[Documents],
        *,
        max_bytes: int | None = None,
        advance: Callable[[int], None] = lambda size: None,
        kept: int = 0,
    ):
        self.sources, self.max_bytes, self.advance, self.kept = sources, max_bytes, advance, kept
        self.documents = self.empty = self.bytes = self.sampled = 0
        self.all_read = False
        self.sample: list[str] = []

    def __iter__(self) -> Iterator[str]:
        given = {self.pieces_of(source): 0 for source in self.sources}  # bytes of each unfinished source
        while given:
            pieces = min(given, key=given.__getitem__)
            piece = next(pieces, None)
            if piece is None:
                del given[pieces]
                continue
            size = len(piece.encode())
            if self.max_bytes is not None and self.bytes + size > self.max_bytes:
                # Without an incomplete character at the end.
                piece = piece.encode()[: self.max_bytes - self.bytes].decode(errors="ignore")
                size = len(piece.encode())
                if not piece:
                    return
            given[pieces] += size
            self.bytes += size
            if self.sampled < self.kept:
                self.sample.append(piece)
                self.sampled += size
            self.advance(size)
            yield piece
        self.all_read = True

    def pieces_of(self, source: Documents) -> Iterator[str]:
        """Yield the pieces of a source and count its documents. Raises SampleError for a fault."""
        for document in source:
            if isinstance(document, SampleError):
                raise document
            self.documents += 1
            is_empty = True
            for piece in at_words(document.chunks):
                is_empty = False
                yield piece
            self.empty += is_empty


def at_words(chunks: Iterable[str]) -> Iterator[str]:
    """Yield the text in pieces of at most `PIECE` characters that begin with a space or a line break if possible.

    A tokenizer then finds the words of the whole text in them.
    """
    rest = ""
    for chunk in chunks:
        text, start = rest + chunk, 0
        while len(text) - start > PIECE:
            window = start + 1, start + PIECE + 1
            cut = max(text.rfind(" ", *window), text.rfind("\n", *window))
            cut = cut if cut > 0 else start + PIECE
            yield text[start:cut]
            start = cut
        rest = text[start:]
    if rest:
        yield rest
