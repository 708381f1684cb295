"""The tokens of documents in memory-mapped files, written once with bounded memory.

A cache is a folder with `train/` and `validation/` and `cache.json` (counts and faults). Each part has `tokens.bin`
(all documents in order, uint16 or uint32) and `ends.bin` (int64, the end of each). A document begins with the token
that begins a text and closes with the one that ends it, so that its first word and its end are predicted too.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import cached_assets_path

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import free_bytes
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.processing.plain_tokenizer import plain_tokenizer
from smol_hf.support.cache_folders import making
from smol_hf.support.tokenizer_of import document_tokens
from smol_hf.text.documents.cutting import pieces
from smol_hf.text.documents.document import Documents
from smol_hf.text.documents.held_out import DocumentPart, HeldOut, Split

VERSION = 2
FACTS = "cache.json"
PARTS = ("train", "validation")
END = np.dtype(np.int64)
AT_ONCE = 1 << 20  # characters that are tokenised in parallel


@dataclass
class Counts:
    """Counts of one part. `text_bytes`: its texts in UTF-8. `tokens` include those that begin and end documents."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


@dataclass
class TokenCache:
    """A finished cache: the numbers of `records` read and of `empty` ones, and the unusable documents (`faults`).

    `in_a_row` is the longest run of consecutive faults. `digests`: see `file_digests`.
    """

    folder: Path
    key: str
    counts: dict[str, Counts]
    token_bytes: int
    records: int = 0
    empty: int = 0
    faults: list[SampleError] = field(default_factory=list)
    in_a_row: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> TokenCache:
        """Open a cache. Raises ValueError if it was damaged after it was made."""
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            facts["counts"] = {part: Counts(**counts) for part, counts in facts["counts"].items()}
            facts["faults"] = [SampleError(*each) for each in facts["faults"]]
            cache = cls(folder, **facts)
            cache.check_files()
        except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError) as error:
            problem = f"the tokens in {folder} were damaged after they were written ({error})"
            raise ValueError(f"{problem}: delete this folder, and they are made again") from error
        return cache

    def check_files(self) -> None:
        """Raise ValueError for a file with another size or other bytes; large files are compared by samples."""
        for part, counts in self.counts.items():
            sizes = {"tokens.bin": counts.tokens * self.token_bytes, "ends.bin": counts.documents * END.itemsize}
            for name, size in sizes.items():
                if (found := (self.folder / part / name).stat().st_size) != size:
                    raise ValueError(f"{part}/{name} has {found:,} bytes instead of {size:,}")
        for name, digest in file_digests(self.folder).items() if self.digests else ():
            if digest != self.digests[name]:
                raise ValueError(f"{name} has other bytes than were written")

    def save(self, folder: Path) -> None:
        facts = {name: value for name, value in vars(self).items() if name != "folder"}
        facts["counts"] = {part: asdict(counts) for part, counts in self.counts.items()}
        facts["faults"] = [[each.where, each.problem, each.source] for each in self.faults]
        (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


class Tokens:
    """Texts → ids. No text of a document becomes a special token.

    Raises:
        ValueError: for a slow tokenizer, or one without a token that ends a text.
    """

    def __init__(self, tokenizer):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("documents need a fast tokenizer (tokenizer.json), but this one is slow")
        self.begin, self.end = document_tokens(tokenizer)
        self.engine = plain_tokenizer(tokenizer, set(tokenizer.all_special_tokens))
        most = max(tokenizer.get_vocab().values())  # its numbers may have gaps
        self.type = np.dtype(np.uint16 if most < 1 << 16 else np.uint32)

    def encode(self, text: str) -> list[int]:
        return self.engine.encode(text, add_special_tokens=False).ids

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.engine.to_str(), self.begin, self.end]).encode()).hexdigest()


class PartWriter:
    """The files of one part, written document by document."""

    def __init__(self, folder: Path, tokens: Tokens):
        folder.mkdir(parents=True)
        self.type = tokens.type
        self.tokens, self.ends = (folder / "tokens.bin").open("wb"), (folder / "ends.bin").open("wb")
        self.counts = Counts()

    def add(self, ids: list[int]) -> None:
        self.tokens.write(np.asarray(ids, dtype=self.type).tobytes())

    def finish(self, text_bytes: int) -> None:
        """End a document; one of 0 bytes is removed."""
        if not text_bytes:
            self.tokens.seek(self.counts.tokens * self.type.itemsize)
            self.tokens.truncate()
            return
        end = self.tokens.tell() // self.type.itemsize
        self.ends.write(np.asarray(end, dtype=END).tobytes())
        self.counts = Counts(self.counts.documents + 1, end, self.counts.text_bytes + text_bytes)

    def close(self) -> None:
        for file in (self.tokens, self.ends):
            file.flush()
            os.fsync(file.fileno())
            file.close()


def caches_folder(asked: str | None) -> Path:
    return Path(asked) if asked is not None else Path(cached_assets_path("smol_hf", "tokens"))


def tokenise(
    documents: Documents,
    tokenizer,
    held_out: HeldOut,
    *,
    folder: Path,
    limit: int | None = None,
    writes: bool = True,
    progress: Callable[[int, int], Any] = lambda read, tokens: None,
) -> TokenCache:
    """Open the cache of these documents, or make it.

    Args:
        folder: of all caches; the name of each depends on everything that decides about its content.
        limit: most documents.
        writes: whether this process makes the cache; the others wait for it.
        progress: called now and then with the bytes read and the tokens made.

    Raises:
        OSError: if it cannot be written; nothing of it is left then.
        ValueError: see `Tokens` and `cutting.pieces`.
    """
    tokens = Tokens(tokenizer)
    facts = [VERSION, documents.fingerprint, tokens.fingerprint, asdict(held_out), limit]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    place = folder / key
    while not writes and not place.is_dir():
        time.sleep(0.2)  # a barrier would time out; if the writer fails, the launcher ends all processes
    if place.is_dir():
        return TokenCache.open(place)
    try:
        with making(folder, key) as unfinished:
            if unfinished is not None:
                write_cache(Split(documents, held_out, limit), tokens, unfinished, key, progress)
    except OSError as error:
        free = f"{free_bytes(folder) / 1e9:.1f} GB are free there"
        problem = f"the tokens cannot be kept in {folder} ({error.strerror or error}; {free})"
        raise OSError(f"{problem}: free space, or name another folder (--documents_cache)") from error
    return TokenCache.open(place)


def write_cache(split: Split, tokens: Tokens, folder: Path, key: str, progress) -> None:
    writers = {part: PartWriter(folder / part, tokens) for part in PARTS}
    writing = Writing(tokens, progress)
    cache = TokenCache(folder, key, {}, tokens.type.itemsize)
    run = 0
    for part in split:
        try:
            if isinstance(part, SampleError):
                raise part
            cache.empty += not writing.document(part, writers["validation" if part.is_held_out else "train"])
            run = 0
        except SampleError as fault:
            run += 1
            cache.in_a_row = max(cache.in_a_row, run)
            fault.source = split.documents.name
            cache.faults.append(fault)
    writing.flush()
    cache.records = split.records
    for part, writer in writers.items():
        writer.close()
        cache.counts[part] = writer.counts
    cache.digests = file_digests(folder)
    cache.save(folder)


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file of tokens by its path in the cache."""
    paths = [folder / part / name for part in PARTS for name in ("tokens.bin", "ends.bin")]
    digests = digests_of_files(paths, whole=are_read_whole(paths))
    return {path.relative_to(folder).as_posix(): digest for path, digest in zip(paths, digests)}


class Writing:
    """Tokenises texts of one or many documents in parallel, and writes them in order.

    Args:
        progress: called after each batch of texts, since there may be only one document.
    """

    def __init__(self, tokens: Tokens, progress: Callable[[int, int], Any]):
        self.tokens, self.progress = tokens, progress
        self.text_bytes = self.written = 0
        self.queue: list[tuple[Callable[[Any], None], Any]] = []  # (method of a writer, its argument or a text)
        self.size = 0  # characters, and one for each other argument

    def document(self, part: DocumentPart, writer: PartWriter) -> int:
        """Write a document and return the bytes of its text. An empty or faulty one leaves nothing.

        Raises:
            SampleError: for an unusable document.
        """
        text_bytes = 0
        self.put(writer.add, [self.tokens.begin])
        try:
            for text in pieces(part.chunks, self.tokens.encode):
                text_bytes += len(text.encode("utf-8"))
                self.put(writer.add, text)
        except SampleError:
            self.put(writer.finish, 0)
            raise
        if part.ends:
            self.put(writer.add, [self.tokens.end])
        self.put(writer.finish, text_bytes)
        return text_bytes

    def put(self, action: Callable[[Any], None], argument: Any) -> None:
        self.queue.append((action, argument))
        self.size += len(argument) if isinstance(argument, str) else 1
        if self.size >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        texts = [argument for _, argument in self.queue if isinstance(argument, str)]
        encoded = [each.ids for each in self.tokens.engine.encode_batch_fast(texts, add_special_tokens=False)]
        self.text_bytes += sum(len(text.encode("utf-8")) for text in texts)
        self.written += sum(map(len, encoded))
        self.progress(self.text_bytes, self.written)
        ids = iter(encoded)
        for action, argument in self.queue:
            action(next(ids) if isinstance(argument, str) else argument)
        self.queue.clear()
        self.size = 0
