"""The sources of a run: what a recipe's mixture names, and what reads their records."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.adapters import Place, adapt, find_adapter
from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.engine.mixing import scaled_weights
from smol_hf.data.engine.preparation import FilteredOutError
from smol_hf.data.engine.source import BlockCache, Source
from smol_hf.data.filters import Filters
from smol_hf.data.sources import open_source
from smol_hf.data.survey import Survey
from smol_hf.wording import nearest

MOST_SURVEYED = 1_000_000  # records; beyond it a run begins without a look at all of them


@dataclass
class Data:
    """The sources of a run, and what reads their records."""

    sources: list[Source]
    readers: list
    weights: list[float]
    surveyed: bool = True
    found: Survey = field(default_factory=Survey)

    def conversations(self, number: int | None = None) -> Iterator[Conversation]:
        """The usable samples in the order of the files, of the first `number` records of each source."""
        return (sample for _, sample in self.samples(number) if isinstance(sample, Conversation))

    def samples(self, number: int | None = None) -> Iterator[tuple[int, Conversation | SampleError]]:
        """(source, sample) of each record in the order of the files, of the first `number` records of each source: a
        conversation, or why the record is none."""
        cache = BlockCache(self.sources)
        for index, source in enumerate(self.sources):
            places = ((block, row) for block, rows in enumerate(source.block_sizes) for row in range(rows))
            for block, row in itertools.islice(places, number):
                where, record = cache.row(index, block, row)
                if record is None:
                    continue
                try:
                    if isinstance(record, SampleError):
                        raise record
                    sample = record if self.readers[index] is None else self.readers[index](where, record)
                except SampleError as fault:
                    sample = fault
                yield index, sample


@dataclass(frozen=True)
class Reader:
    """(where, record) → the conversation that the recipe wants of it."""

    media_folder: Path
    adapter: str | None
    filters: Filters

    def __call__(self, where: str, record: Any) -> Conversation:
        conversation, reason = self.filters.apply(adapt(record, Place(where, self.media_folder), name=self.adapter))
        if conversation is None:
            raise FilteredOutError(where, f"left out by filters: {reason}")
        return conversation


@dataclass(frozen=True)
class MixtureEntry:
    """One source of a mixture, by the keys of a recipe."""

    data: str
    name: str | None = None
    weight: float = 1.0
    adapter: str | None = None
    filters: dict[str, Any] = field(default_factory=dict)
    image_folder: str | None = None

    def open(self) -> tuple[Source, Reader]:
        if self.adapter is not None:
            find_adapter(self.adapter)  # refuse a name that is none before anything is read
        path = Path(self.data)
        folder = path if path.is_dir() else path.parent
        folder = Path(self.image_folder) if self.image_folder is not None else folder
        source = open_source(path)
        if self.name is not None:
            source.name, source.prefix = self.name, f"{self.name}/"
        return source, Reader(folder, self.adapter, Filters.from_mapping(self.filters))


def open_mixture(entries: list[dict[str, Any]], stopping: str) -> Data:
    """The sources of a recipe's mixture.

    Raises:
        ValueError: naming the entry, for keys that there are not and names that stand twice.
    """
    known = list(MixtureEntry.__dataclass_fields__)
    sources, readers, weights = [], [], []
    for number, keys in enumerate(entries, start=1):
        for key in keys:
            if key not in known:
                raise ValueError(f"mixture, entry {number}: unknown key {key!r}{nearest(str(key), known)}")
        if not isinstance(keys.get("data"), str):
            raise ValueError(f"mixture, entry {number}: lacks the key 'data', a file or folder")
        entry = MixtureEntry(**keys)
        source, reader = entry.open()
        if source.name in [other.name for other in sources]:
            raise ValueError(f"mixture, entry {number}: {source.name!r} stands twice: give it another name")
        sources.append(source)
        readers.append(reader)
        weights.append(float(entry.weight))
    weights = scaled_weights([len(source) for source in sources], weights, stopping)
    return Data(sources, readers, weights, surveyed=sum(map(len, sources)) <= MOST_SURVEYED)
