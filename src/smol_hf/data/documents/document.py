"""What every reader of documents gives: documents one after another, each in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
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
