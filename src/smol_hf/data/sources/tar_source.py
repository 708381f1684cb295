"""webdataset shards: tar files whose members with a common key are one record, in any order.

The headers are read once, and the content of members when their record is read. Nothing is extracted.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow
from fsspec.utils import merge_offset_ranges

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import (
    for_each,
    is_remote,
    labels_of,
    open_file,
    read_range,
    remembered,
    remote_fingerprint,
)
from smol_hf.data.sources.fingerprints import digests_of
from smol_hf.data.sources.members import TEXTS, USED, ending, in_order, record_of
from smol_hf.data.sources.source import Source

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 1 << 24  # bytes of an extended header, which tarfile reads at once
LAST_BYTE = 2**63 - 1  # that a file can have
GAP = 256 * 1024  # bytes between two members that are read with them, to save a request
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError)


@dataclass
class Shard:
    """The members of a shard by key, (name, offset, size) each, and the fault of a key."""

    members: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    last: str | None = None


class TarSource(Source):
    """The records of some tar files, in the order of the files' names and of each shard.

    The key of a member is its path up to the first dot of its name. Members of one key may be apart. A key with a bad
    member (duplicate, a link, incomplete) is a row whose record is a `SampleError`.

    Args:
        urls: paths or URLs of fsspec.

    Raises:
        SampleError: for a file that is not an uncompressed tar. UnreachableError: for an unreachable remote file.
    """

    rows_anywhere = True

    def __init__(self, name: str, urls: list[str]):
        self.name, self.urls = name, sorted(urls)
        self.files = self.urls
        labels = labels_of(self.urls)
        self.labels = [labels[url] for url in self.urls]
        shards = for_each(
            lambda url: Shard(**remembered(url, "tar 2", lambda: asdict(indexed(url, labels[url])))), self.urls
        )
        self.note_interrupted(shards)
        self.keep(shards)
        facts = for_each(remote_fingerprint, [url for url in self.urls if is_remote(url)])
        contents = [[label, shard.members] for label, shard in zip(self.labels, shards)]
        facts += digests_of(self.urls)
        self.fingerprint = hashlib.sha256(json.dumps([facts, contents]).encode()).hexdigest()

    def note_interrupted(self, shards: list[Shard]) -> None:
        """Note faults for the two halves of a sample that is divided between two shards."""
        for number, (one, other) in enumerate(zip(shards, shards[1:])):
            key = one.last
            if key is None or key != next(iter(other.members), None):
                continue
            halves = [{ending(name) for name, _, _ in shard.members[key]} for shard in (one, other)]
            if halves[0].isdisjoint(halves[1]):
                names = f"{self.labels[number]} and {self.labels[number + 1]}"
                for shard in (one, other):
                    shard.faults.setdefault(key, f"its members are divided between {names}: write them into one")

    def keep(self, shards: list[Shard]) -> None:
        """Keep all places in arrays, since there may be many millions."""
        keys, names, shard_of, counts, spans = [], [], [], [], []
        self.faults: dict[int, str] = {}
        for number, shard in enumerate(shards):
            for key, members in shard.members.items():
                if key in shard.faults:
                    self.faults[len(keys)] = shard.faults[key]
                keys.append(key)
                shard_of.append(number)
                counts.append(len(members))
                names += [name for name, _, _ in members]
                spans += [(offset, size) for _, offset, size in members]
        self.block_sizes = np.ones(len(keys), dtype=np.int64)
        self.keys, self.names = (pyarrow.array(each, pyarrow.large_string()) for each in (keys, names))
        self.shard_of = np.array(shard_of, dtype=np.int32)
        self.firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.spans = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        shard = int(self.shard_of[block])
        key = self.keys[block].as_py()
        where = f"{self.prefix}{self.labels[shard]}:{key}"
        if block in self.faults:
            return [(where, SampleError(where, self.faults[block]))]
        try:
            return [(where, {"__key__": key, **self.record(block, self.urls[shard], where)})]
        except SampleError as fault:
            return [(where, fault)]

    def record(self, block: int, url: str, where: str) -> dict[str, Any]:
        first, last = int(self.firsts[block]), int(self.firsts[block + 1])
        spans = dict(zip(self.names[first:last].to_pylist(), self.spans[first:last].tolist()))
        used = {name: (offset, size) for name, (offset, size) in spans.items() if name.lower().endswith(USED)}
        contents = read_spans(url, used, where)
        texts = {name: content for name, content in contents.items() if name.lower().endswith(TEXTS)}
        media = {
            name: {"bytes": contents[name], "path": name}
            for name in sorted(contents, key=in_order)
            if name not in texts
        }
        record = record_of(texts, media, where)
        unread = [name for name in spans if name not in used]
        return {**({"__unread__": unread} if unread else {}), **record}


def read_spans(url: str, spans: dict[str, tuple[int, int]], where: str) -> dict[str, bytes]:
    """Return contents by name, of (offset, size) each. Neighbouring members are read at once."""
    contents: dict[str, bytes] = {}
    merged: Any = merge_offset_ranges(
        [url] * len(spans),
        [offset for offset, _ in spans.values()],
        [offset + size for offset, size in spans.values()],
        max_gap=GAP,
    )
    for begin, end in zip(*merged[1:]):
        piece = read_range(url, begin, end)
        if len(piece) < end - begin:
            raise SampleError(where, "the shard is shorter than when the run began: was it written anew?")
        for name, (offset, size) in spans.items():
            if begin <= offset and offset + size <= end:
                contents[name] = piece[offset - begin : offset - begin + size]
    return contents


def indexed(url: str, label: str) -> Shard:
    """Return the members of a tar file, from its headers.

    Raises:
        SampleError: for an unreadable first header.
    """
    shard = Shard()
    with open_file(url, ahead=True) as file:
        if file.read(6).startswith(COMPRESSED):
            raise SampleError(label, "is compressed, so no record can be read without all before it: uncompress it")
        file.seek(0)
        try:
            for member in headers(file):
                add(shard, member)
        except DAMAGE as error:
            if shard.last is None:
                raise SampleError(label, f"not readable as tar: {error}") from error
            shard.faults[shard.last] = f"the shard is damaged here: {error}. What comes after is lost"
    return shard


class BoundedReads:
    """A binary file that limits the bytes of each read, whatever a header says."""

    def __init__(self, file: BinaryIO):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST_HEADER:
            raise ValueError(f"an extended header says that it holds more than {LONGEST_HEADER:,} bytes")
        return self.file.read(size)


def headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file. Raises ValueError or TarError for a damaged or truncated file."""
    bounded: Any = BoundedReads(file)
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="replace") as archive:
        before = -1
        while (member := archive.next()) is not None:
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  frees memory; missing in typeshed
            if archive.offset <= before or member.size < 0:
                raise ValueError(f"a header at byte {member.offset} leads backwards")
            before = archive.offset
            if member.offset_data + member.size > LAST_BYTE:
                member.size = 0
                yield member
                raise ValueError(f"the header at byte {member.offset} says that more follows than a file can hold")
            yield member
        # The end of a file, an end mark and damage look the same to tarfile.
        file.seek(archive.offset)
        mark = file.read(BLOCK)
        if len(mark) < BLOCK:
            raise ValueError(f"it ends at byte {archive.offset + len(mark)} without the mark of a tar's end; "
                             "was it cut off?")  # fmt: skip
        if any(mark):
            raise ValueError(f"no member begins at byte {archive.offset}")
        while rest := file.read(1 << 20):
            if any(rest):
                raise ValueError(f"more follows after its end mark at byte {archive.offset}; were tars put together?")


def add(shard: Shard, member: tarfile.TarInfo) -> None:
    """Add a member to its key. Folders and hidden files are not data."""
    name = member.name.removeprefix("./")
    base = name.rpartition("/")[2]
    if member.isdir() or base.startswith((".", "__")):
        return
    key = name[: len(name) - len(ending(name))].removesuffix(".") or name
    members = shard.members.setdefault(key, [])
    problem = None
    if not member.isreg() or member.issparse():
        problem = f"its member {base} is a link or no plain file, and links are not followed: store the file itself"
    elif name.startswith("/") or ".." in name.split("/"):
        problem = f"its member {name} has a path that leads out of the shard: name it without"
    elif not ending(name):
        problem = "its name has no ending, so its kind is unknown: name it key.ending"
    elif any(name == other for other, _, _ in members):
        problem = f"its member {base} is a duplicate: give each sample a key of its own"
    if problem is not None:
        shard.faults.setdefault(key, problem)
    members.append((name, member.offset_data, member.size))
    shard.last = key
