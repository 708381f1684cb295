"""The sources of a run, opened from the entries of a recipe's mixture, and the readers of their records."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.media.images import MAXIMUM_BYTES
from smol_hf.data.mixture.entry_keys import OF_THE_HUB, check_entry, named, without_deleted_keys
from smol_hf.data.mixture.failed_sources import FailedSource, refuse_failed
from smol_hf.data.records import find_adapter
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.data.sources.location import KINDS, open_location
from smol_hf.data.sources.source import MadeSource, Source
from smol_hf.data.stream.mixing import scaled_weights
from smol_hf.data.stream.survey import Survey
from smol_hf.support.formatting import nearest
from smol_hf.support.key_values import is_name

DATA_ROOT = "{data_root}"
FIRST_RECORDS = 1000  # of each source that are read before a run without a survey
OF_RECORDS = ("adapter", "filters", "ignore_fields", "image_folder", *OF_THE_HUB)  # keys of an entry
NOTHING: Mapping[str, Any] = {}
MOST_SURVEYED = 1_000_000  # records; a run with more starts without a survey


@dataclass
class Data:
    """The sources of a run with their readers and weights."""

    sources: list[Source]
    readers: list
    weights: list[float]
    surveyed: bool = True
    found: Survey = field(default_factory=Survey)
    entries: list[MixtureEntry] = field(default_factory=list)  # of a mixture, one for each source
    failed: list[FailedSource] = field(default_factory=list)  # that it names and that are left out

    def conversations(self, number: int | None = None) -> Iterator[Conversation]:
        """Yield the usable samples in the order of the files, of the first `number` records of each source."""
        return (sample for _, sample in self.samples(number) if isinstance(sample, Conversation))

    def samples(
        self, number: int | None = None, *, local_only: bool = False
    ) -> Iterator[tuple[int, Conversation | SampleError]]:
        """Yield (source, sample) of the first `number` records of each source, in the order of the files.

        A sample is a conversation, or the error of its record.

        Args:
            local_only: only sources of local files.
        """
        for index, source in enumerate(self.sources):
            if local_only and (source.remote or self.readers[index] is None):
                continue
            for sample in self.samples_of(index, 0, number):
                yield index, sample

    def samples_of(self, index: int, first: int = 0, last: int | None = None) -> Iterator[Conversation | SampleError]:
        """Yield the samples of one source in the rows from `first` up to `last`; None: to its end."""
        source, reader = self.sources[index], self.readers[index]
        for where, record in source.rows_between(first, len(source) if last is None else last):
            if record is None:
                continue
            try:
                if isinstance(record, SampleError):
                    raise record
                sample = record if reader is None else reader(where, record)
            except SampleError as fault:
                fault.source = source.name
                sample = fault
            yield sample


@dataclass(frozen=True)
class MixtureEntry:
    """One source of a mixture, as the keys of a recipe. A path may contain `{data_root}`, the recipe's key.

    `config`, `split`, `revision` and `download` are for a Hub dataset.
    """

    data: str
    name: str | None = None
    weight: float = 1.0
    samples: int | None = None
    modality: str | None = None
    available: int | None = None
    adapter: str | None = None
    filters: dict[str, Any] = field(default_factory=dict)
    image_folder: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    download: bool = False
    ignore_fields: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name of the entry before its source is open."""
        return self.name if self.name is not None else Path(self.data).name

    def weight_of(self, rows: int) -> float:
        """Return its weight, or the weight that gives `samples` of `rows` rows."""
        return float(self.weight) if self.samples is None else self.samples / rows

    def records(self, rows: int | None) -> float | None:
        """Return its number of records in a round; None if unknown."""
        if self.samples is not None:
            return float(self.samples)
        return None if rows is None else self.weight * rows

    def open(
        self,
        *,
        data_root: str | None = None,
        max_image_bytes: int = MAXIMUM_BYTES,
        embedded: Mapping[str, Source] = NOTHING,
    ) -> tuple[Source, RecordReader | None]:
        """Open its source, and the reader of its records; None for an embedded source, see `open_mixture`."""
        if self.adapter is not None:
            find_adapter(self.adapter)  # refuse an unknown name before anything is read
        filters = Filters.from_mapping(self.filters)
        if self.data in embedded:
            given = {name: getattr(self, name) for name in OF_RECORDS}
            if unused := [name for name, value in given.items() if value]:
                raise ValueError(f"{unused[0]} has no effect with data: {self.data}: remove it")
            source = embedded[self.data]
            source.name = self.label
            return source, None
        dataset = {"config": self.config, "split": self.split, "revision": self.revision, "download": self.download}
        opened = open_location(located(self.data, data_root), **dataset)
        source, folder = opened.source, opened.media_folder
        folder = Path(located(self.image_folder, data_root)) if self.image_folder is not None else folder
        if self.name is not None:
            source.name, source.prefix = self.name, f"{self.name}/"
        ignored = frozenset(self.ignore_fields)
        return source, RecordReader(
            folder, self.adapter, filters, opened.inside_only, opened.dataset, max_image_bytes, ignored
        )


def located(path: str, data_root: str | None) -> str:
    if DATA_ROOT not in path:
        return path
    if data_root is None:
        raise FileNotFoundError(f"{path}: say where that is with the key data_root")
    return path.replace(DATA_ROOT, data_root)


def where_of(where: str, keys: dict[str, Any]) -> str:
    """Return `where` with the name of the entry, if it has a valid one."""
    names = [keys.get("name"), Path(keys["data"]).name if isinstance(keys.get("data"), str) else None]
    named = [name for name in names if isinstance(name, str) and is_name(name)]
    return f"{where} ({named[0]})" if named else where


def parse_entries(entries: list[dict[str, Any]]) -> list[MixtureEntry]:
    """Parse the entries of a recipe's mixture. Raises ValueError with the entry and the key."""
    types = typing.get_type_hints(MixtureEntry)
    known = list(MixtureEntry.__dataclass_fields__)
    parsed: list[MixtureEntry] = []
    for number, keys in enumerate(entries, start=1):
        where = f"mixture, entry {number}"
        if not isinstance(keys, dict):
            raise ValueError(f"{where}: {keys!r} is not a mapping of keys, such as {{data: my.jsonl, weight: 2}}")
        with named(where_of(where, keys)):
            keys = without_deleted_keys(keys)
        for key in keys:
            if key not in known:
                raise ValueError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
        check_entry(keys, types, where_of(where, keys))
        entry = MixtureEntry(**keys)
        if entry.name is not None and entry.name in [other.name for other in parsed]:
            raise ValueError(f"{where}: duplicate name {entry.name!r}: give it another name")
        parsed.append(entry)
    return parsed


def open_mixture(
    entries: list[dict[str, Any]],
    stopping: str,
    *,
    on_failed: str = "stop",
    data_root: str | None = None,
    max_image_bytes: int = MAXIMUM_BYTES,
    embedded: Mapping[str, Source] = NOTHING,
) -> Data:
    """Open the sources of a recipe's mixture.

    Args:
        on_failed: "stop": an entry that cannot be opened is an error; "reweight": it is left out, in `Data.failed`.
        data_root: the value of `{data_root}` in their paths.
        max_image_bytes: the most bytes of an encoded image.
        embedded: sources of conversations by the name that `data` gives them.

    Raises:
        ValueError: for an unknown key and a duplicate name, with the entry.
        SampleError: for failed entries, with all their reasons.
    """
    opened, failed = [], []
    for number, entry in enumerate(parse_entries(entries), start=1):
        try:
            source, reader = entry.open(data_root=data_root, max_image_bytes=max_image_bytes, embedded=embedded)
            if not len(source):
                raise SampleError(source.name, "holds no record")
        except (OSError, SampleError, ImportError) as error:
            failed.append(FailedSource(entry.label, str(error), entry.modality, entry.records(entry.available)))
            continue
        except ValueError as error:  # a mistake in the recipe is never skipped
            raise ValueError(f"mixture, entry {number} ({entry.label}): {error}") from error
        if source.name in [other.name for _, other, _ in opened]:
            raise ValueError(f"mixture, entry {number}: duplicate name {source.name!r}: give it another name")
        if not source.prefix and Path(entry.data).suffix.lower() not in KINDS:
            source.prefix = f"{source.name}/"  # files of two folders may have the same name
        opened.append((entry, source, reader))
    refuse_failed(failed, len(entries), on_failed)
    if not opened:
        raise SampleError("mixture", "it names no source")
    return data_of(opened, stopping, failed)


def data_of(
    opened: list[tuple[MixtureEntry, Source, RecordReader | None]], stopping: str, failed: list[FailedSource]
) -> Data:
    entries, sources, readers = (list(each) for each in zip(*opened))
    rows = [len(source) for source in sources]
    weights = [entry.weight_of(number) for entry, number in zip(entries, rows)]
    weights = scaled_weights(rows, weights, stopping)
    return Data(sources, readers, weights, can_be_surveyed(sources), entries=entries, failed=failed)


def without_unusable(data: Data, stopping: str, on_failed: str) -> Data:
    """Return the data without the sources that have no usable record. Raises SampleError, see `refuse_failed`."""
    usable, faults = Counter(), {}
    for (source, _), each in data.found.found.items():
        if isinstance(each, SampleError):
            faults.setdefault(source, []).append(each)
        else:
            usable[source] += 1
    reasons = {}
    for source in range(len(data.sources)):
        if not usable[source]:
            found = faults.get(source, [])
            first = f", the first: {found[0]}" if found else ""
            reasons[source] = f"none of its {len(found)} records can be used{first}"
    return leave_out(data, reasons, stopping, on_failed)


def leave_out(data: Data, reasons: dict[int, str], stopping: str, on_failed: str) -> Data:
    """Return the data of a mixture without some of its sources. Raises SampleError, see `refuse_failed`.

    Args:
        reasons: number of a source → the reason to leave it out.
    """
    if not reasons:
        return data
    failed, kept = list(data.failed), []
    for source, (entry, opened) in enumerate(zip(data.entries, data.sources)):
        if source in reasons:
            records = entry.records(len(opened))
            failed.append(FailedSource(opened.name, reasons[source], entry.modality, records))
        else:
            kept.append(source)
    refuse_failed(failed, len(kept) + len(failed), on_failed)
    smaller = data_of(
        [(data.entries[each], data.sources[each], data.readers[each]) for each in kept], stopping, failed
    )
    places = {old: new for new, old in enumerate(kept)}
    smaller.found = data.found.of_sources(places)
    return smaller


def can_be_surveyed(sources: list[Source]) -> bool:
    """Return True if all records can be read before a run: they are local files, and not too many."""
    made_or_remote = any(source.remote or isinstance(source, MadeSource) for source in sources)
    return sum(map(len, sources)) <= MOST_SURVEYED and not made_or_remote
