"""The part of the documents that is held out for validation. It depends on the texts, not on the run's seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smol_hf.data.conversation import SampleError
from smol_hf.text.documents.document import Document, Documents

FEW = 100  # with fewer documents the end of each is held out
NEAR = 1000  # characters within which a held-out end is moved to the beginning of a line


@dataclass(frozen=True)
class HeldOut:
    """Amount that is held out.

    Args:
        fraction: of the documents, chosen by their numbers; of fewer than `FEW` documents, the end of each.
        most: limit in characters; the rest is trained on.
    """

    fraction: float = 0.0
    most: int = 4_000_000

    def chooses(self, number: int) -> bool:
        """Return True if the document with this number is held out."""
        digest = hashlib.sha256(f"document {number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * 2**64


@dataclass
class DocumentPart:
    """A document, or its part for training or validation."""

    chunks: Iterable[str]
    is_held_out: bool = False
    ends: bool = True  # contains the end of the document


@dataclass
class Split:
    """The documents in their order, at most `limit`, as parts for training and validation."""

    documents: Documents
    held_out: HeldOut
    limit: int | None = None
    records: int = field(default=0, init=False)  # read so far
    characters: int = field(default=0, init=False)  # held out so far

    def __iter__(self) -> Iterator[DocumentPart | SampleError]:
        if self.held_out.fraction and min(self.documents.count(), self.limit or FEW) < FEW:
            yield from self.ends()
            return
        for number, each in enumerate(self.read()):
            if isinstance(each, SampleError):
                yield each
            elif self.characters < self.held_out.most and self.held_out.chooses(number):
                yield DocumentPart(self.counted(each.chunks), is_held_out=True)
            else:
                yield DocumentPart(each.chunks)

    def read(self) -> Iterator[Document | SampleError]:
        for each in itertools.islice(self.documents, self.limit):
            self.records += 1
            yield each

    def counted(self, chunks: Iterable[str]) -> Iterator[str]:
        for chunk in chunks:
            self.characters += len(chunk)
            yield chunk

    def ends(self) -> Iterator[DocumentPart | SampleError]:
        lengths = [length_of(each) for each in itertools.islice(self.documents, self.limit)]
        wanted = sum(lengths) * self.held_out.fraction
        share = self.held_out.fraction * min(1.0, self.held_out.most / max(wanted, 1))
        for each, length in zip(self.read(), lengths):
            held = round(length * share)
            if isinstance(each, SampleError):
                yield each
            elif held in (0, length):  # too short to cut, or unreadable
                yield DocumentPart(each.chunks, is_held_out=held > 0)
            else:
                before, after = halves(each.chunks, length - held)
                yield DocumentPart(before, ends=False)
                yield DocumentPart(after, is_held_out=True)


def length_of(document: Document | SampleError) -> int:
    """Return the number of characters; 0 for an unreadable document, which is reported when it is used."""
    if isinstance(document, SampleError):
        return 0
    try:
        return sum(map(len, document.chunks))
    except SampleError:
        return 0


def halves(chunks: Iterable[str], position: int) -> tuple[Iterator[str], Iterator[str]]:
    """Split a text at about `position`. The first half must be read to its end before the second."""
    chunks, rest = iter(chunks), []

    def before() -> Iterator[str]:
        seen = 0
        for text in chunks:
            if seen + len(text) <= position:
                seen += len(text)
                yield text
                continue
            while len(text) < position - seen + NEAR and (more := next(chunks, "")):
                text += more
            at = line_near(text, position - seen)
            rest.append(text[at:])
            if text[:at]:
                yield text[:at]
            return

    def after() -> Iterator[str]:
        yield from filter(None, rest)
        yield from chunks

    return before(), after()


def line_near(text: str, position: int) -> int:
    """Return the next beginning of a line after `position`, or the position itself."""
    found = text.find("\n", position, position + NEAR)
    return found + 1 if found >= 0 and found + 1 < len(text) else min(position, len(text))
