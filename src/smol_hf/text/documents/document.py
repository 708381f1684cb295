"""What every reader of documents gives: documents one after another, each in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from smol_hf.data.conversation import SampleError

CHUNK = 1 << 18  # characters of a piece at most


@dataclass(frozen=True)
class Document:
    """One document, which may be larger than the memory.

    Attributes:
        where: names it in every message: `corpus.jsonl:12`, `notes/a.txt`, `book.txt:3` (the third of a file that a
            separator splits).
        chunks: its text in order, in pieces of 1 to `CHUNK` characters; none of an empty document. They are read
            before the next document is asked for. Reading them may raise SampleError.
    """

    where: str
    chunks: Iterable[str]


class Documents(ABC):
    """All documents of a place, in the order of its files.

    Attributes:
        name: what the place is called.
        fingerprint: changes when the content does, or how it is read.
        remote: whether they come over a network.
        revision: the commit of a dataset of the Hub.
    """

    name: str
    fingerprint: str
    remote: bool = False
    revision: str | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Document | SampleError]:
        """Each document, or in its place the SampleError that says why it is none.

        Raises:
            UnreachableError: for a file elsewhere that cannot be read now. SampleError: for a file that cannot be read
                as a whole.
        """

    @abstractmethod
    def count(self) -> int:
        """How many documents and errors `__iter__` gives. Texts that a separator splits are read through for it."""


def slices(text: str) -> Iterator[str]:
    """The text in pieces of at most `CHUNK` characters."""
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK]


PIECE = 1 << 14  # characters


class Reading:
    """The texts of all sources, read once: in turn, so that where `max_bytes` ends it, each gave about the same.

    Args:
        max_bytes: of UTF-8 that are read at most.
        advance: called with the bytes of each piece.
        kept: bytes of the first pieces that stay in `sample`.

    Attributes:
        documents, empty, bytes: how many were read, how many of them hold nothing.
        all_read: whether all sources came to their ends.
        sample: the first pieces, and `sampled`, their bytes.

    Raises:
        SampleError: while it is iterated: at the first record that is no document.
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
        # Of each source that has not ended: its pieces, and the bytes that it gave.
        left = [[self.pieces_of(source), 0] for source in self.sources]
        while left:
            source = min(left, key=lambda each: each[1])
            piece = next(source[0], None)
            if piece is None:
                left.remove(source)
                continue
            content = piece.encode()
            if self.max_bytes is not None and self.bytes + len(content) > self.max_bytes:
                content = content[: self.max_bytes - self.bytes]
                piece = content.decode(errors="ignore")  # without the half of a character at its end
                content = piece.encode()
                if not piece:
                    return
            source[1] += len(content)
            self.bytes += len(content)
            if self.sampled < self.kept:
                self.sample.append(piece)
                self.sampled += len(content)
            self.advance(len(content))
            yield piece
        self.all_read = True

    def pieces_of(self, source: Documents) -> Iterator[str]:
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
    """The same text in pieces of at most `PIECE` characters that begin with a space or a line break, where there is
    one: a tokenizer finds the words of the whole text in them."""
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
