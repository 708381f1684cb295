"""Which part of the documents is kept for validation. The same texts give the same part, whatever the run's seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smol_hf.data.conversation import SampleError
from smol_hf.text.documents.readers import Document, Documents

FEW = 100  # documents; of fewer the end of each is held out
NEAR = 1000  # characters within which the end begins at a line


@dataclass(frozen=True)
class HeldOut:
    """Args:
    fraction: of the documents, each chosen by its number alone; of fewer than `FEW` documents, of each one's end.
    most: characters at most; what would be more is trained on.
    """

    fraction: float = 0.0
    most: int = 4_000_000

    def chooses(self, number: int) -> bool:
        digest = hashlib.sha256(f"document {number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * 2**64


@dataclass
class Part:
    """A document, or what is trained or validated on of one."""

    document: Document
    chunks: Iterable[str]
    is_held_out: bool = False
    ends: bool = True  # with the document's own end


@dataclass
class Split:
    """The documents in their order, each with what becomes of it; `limit` of them at most."""

    documents: Documents
    held_out: HeldOut
    limit: int | None = None
    records: int = field(default=0, init=False)  # read so far
    characters: int = field(default=0, init=False)  # held out so far

    def __iter__(self) -> Iterator[Part | SampleError]:
        if not self.held_out.fraction:
            yield from (each if isinstance(each, SampleError) else Part(each, each.chunks) for each in self.read())
        elif min(self.documents.count(), self.limit or FEW) < FEW:
            yield from self.ends()
        else:
            yield from self.whole()

    def read(self) -> Iterator[Document | SampleError]:
        for each in itertools.islice(self.documents, self.limit):
            self.records += 1
            yield each

    def whole(self) -> Iterator[Part | SampleError]:
        for number, each in enumerate(self.read()):
            if isinstance(each, SampleError):
                yield each
            elif self.characters < self.held_out.most and self.held_out.chooses(number):
                yield Part(each, self.counted(each.chunks), is_held_out=True)
            else:
                yield Part(each, each.chunks)

    def counted(self, chunks: Iterable[str]) -> Iterator[str]:
        for chunk in chunks:
            self.characters += len(chunk)
            yield chunk

    def ends(self) -> Iterator[Part | SampleError]:
        lengths = [length_of(each) for each in itertools.islice(self.documents, self.limit)]
        wanted = sum(lengths) * self.held_out.fraction
        share = self.held_out.fraction * min(1.0, self.held_out.most / max(wanted, 1))
        for each, length in zip(self.read(), lengths):
            held = round(length * share)
            if isinstance(each, SampleError):
                yield each
            elif held in (0, length):  # nothing to cut: too short, or not to be read
                yield Part(each, each.chunks, is_held_out=held > 0)
            else:
                before, after = Cut(each.chunks, length - held).halves()
                yield Part(each, before, ends=False)
                yield Part(each, after, is_held_out=True)


def length_of(document: Document | SampleError) -> int:
    """Characters; 0 of what cannot be read, which is met again when it is to be used."""
    if isinstance(document, SampleError):
        return 0
    try:
        return sum(map(len, document.chunks))
    except SampleError:
        return 0


class Cut:
    """A text in two: up to about `place`, and from there. The first half must be read to its end before the second."""

    def __init__(self, chunks: Iterable[str], place: int):
        self.chunks, self.place = iter(chunks), place
        self.rest = ""

    def halves(self) -> tuple[Iterator[str], Iterator[str]]:
        return self.before(), self.after()

    def before(self) -> Iterator[str]:
        seen = 0
        for text in self.chunks:
            if seen + len(text) <= self.place:
                seen += len(text)
                yield text
                continue
            while len(text) < self.place - seen + NEAR and (more := next(self.chunks, "")):
                text += more
            at = line_near(text, self.place - seen)
            self.rest = text[at:]
            if text[:at]:
                yield text[:at]
            return

    def after(self) -> Iterator[str]:
        if self.rest:
            yield self.rest
        yield from self.chunks


def line_near(text: str, place: int) -> int:
    """The beginning of the line nearest after `place`, or else the place itself."""
    found = text.find("\n", place, place + NEAR)
    return found + 1 if found >= 0 and found + 1 < len(text) else min(place, len(text))
