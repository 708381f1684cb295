"""A recipe's data keys → the plan of its rows, surveyed where that is possible before the run."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.adapters import Place, adapt, find_adapter
from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.embedded import build_pages
from smol_hf.data.engine.json_source import JsonArraySource, JsonLinesSource
from smol_hf.data.engine.memory_source import MadeSource
from smol_hf.data.engine.mixing import scaled_weights
from smol_hf.data.engine.parquet_source import ParquetSource
from smol_hf.data.engine.preparation import FilteredOutError, SampleWork
from smol_hf.data.engine.source import BlockCache, Source
from smol_hf.data.engine.stream import Plan
from smol_hf.data.filters import Filters
from smol_hf.data.skipped import SkippedSamples
from smol_hf.data.survey import Survey, count_rows, survey
from smol_hf.training.arguments import DataArguments, SmolTrainingArguments
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
        """The usable samples in the order of the files, the first `number` records of each source."""
        cache = BlockCache(self.sources)
        for index, source in enumerate(self.sources):
            places = ((block, row) for block, rows in enumerate(source.block_sizes) for row in range(rows))
            for block, row in itertools.islice(places, number):
                where, record = cache.row(index, block, row)
                if record is None or isinstance(record, SampleError):
                    continue
                try:
                    yield record if self.readers[index] is None else self.readers[index](where, record)
                except SampleError:
                    continue


def open_data(arguments: DataArguments, seed: int) -> Data:
    """The sources that `data` names.

    Raises:
        FileNotFoundError: when there is no such file. SampleError: when it cannot be read as a whole. ValueError: for
            an adapter or a filter that there is not.
    """
    if arguments.mixture is not None:
        return open_mixture(arguments)
    if arguments.data == "digits":
        return Data([digits(arguments, seed)], [None], [1.0], surveyed=False)
    entry = MixtureEntry(
        arguments.data,
        adapter=arguments.adapter,
        filters=arguments.filters or {},
        image_folder=arguments.image_folder,
    )
    source, reader = entry.open()
    return Data([source], [reader], [1.0], surveyed=len(source) <= MOST_SURVEYED)


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


def open_mixture(arguments: DataArguments) -> Data:
    """Raises ValueError, naming the entry, for keys that there are not and names that stand twice."""
    known = list(MixtureEntry.__dataclass_fields__)
    sources, readers, weights = [], [], []
    for number, keys in enumerate(arguments.mixture, start=1):
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
    weights = scaled_weights([len(source) for source in sources], weights, arguments.stopping)
    return Data(sources, readers, weights, surveyed=sum(map(len, sources)) <= MOST_SURVEYED)


def open_source(path: Path) -> Source:
    """The source of a file, or of a folder of parquet files. Raises FileNotFoundError when there is none."""
    if path.is_dir():
        files = sorted(str(each) for each in path.glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"the data folder {path} holds no .parquet file")
        return ParquetSource(path.name, files)
    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} does not exist")
    if path.suffix == ".parquet":
        return ParquetSource(path.name, [str(path)])
    return (JsonArraySource if path.suffix == ".json" else JsonLinesSource)(path.name, path)


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


def digits(arguments: DataArguments, seed: int) -> MadeSource:
    facts = {"seed": seed, "page_size": arguments.page_size, "turns": arguments.turns_per_page}

    def make(number: int) -> tuple[str, Conversation]:
        (page,) = build_pages(1, split="train", first=number, **facts)
        return page.conversation.sample_id, page.conversation

    make(0)  # refuse sizes that mean nothing before the run
    print_of = hashlib.sha256(repr((arguments.num_pages, facts)).encode()).hexdigest()
    return MadeSource("digits", arguments.num_pages, make, fingerprint=print_of)


def plan_of(data: Data, processor, arguments: DataArguments, training: SmolTrainingArguments, lanes: int) -> Plan:
    return Plan(
        data.sources,
        data.weights,
        SampleWork(processor, arguments.context_length, data.readers),
        arguments.context_length,
        seed=training.data_seed if training.data_seed is not None else training.seed,
        rounds=None if training.max_steps > 0 else math.ceil(training.num_train_epochs),
        lanes=lanes,
        pool_size=arguments.packing_pool if arguments.sample_packing else 1,
        max_tiles=arguments.max_tiles_per_row,
    )


def look_through(plan: Plan, data: Data, arguments: DataArguments, skipped: SkippedSamples) -> None:
    """Survey the data where it is asked for and at hand, and let the ledger decide whether the run may begin.

    Raises:
        SampleError: see `SkippedSamples.settle`; and for data without any record.
    """
    if not sum(len(source) for source in data.sources):
        raise SampleError("data", "the data holds no sample")
    if not data.surveyed:
        skipped.expect(sum(len(source) for source in data.sources))
        return
    data.found = survey(plan, verify_images=arguments.verify_images)
    if not data.found.total:
        raise SampleError("data", "the data holds no sample")
    skipped.faults, skipped.left_out = data.found.faults, data.found.left_out
    skipped.settle(data.found.total)


def rows_of_the_run(plan: Plan, data: Data, epochs: float) -> int:
    """Rows that so many epochs make; of data that was not surveyed, packing makes fewer than this."""
    rounds = max(math.ceil(epochs), 1)
    if data.found.total:
        rows = count_rows(plan, data.found, rounds)
    else:
        rows = math.ceil(rounds * sum(len(source) * weight for source, weight in zip(data.sources, data.weights)))
    return max(1, math.ceil(rows * epochs / rounds))


def fingerprint(data: Data, read_images: bool) -> str:
    """SHA-256 of the data: its records, and the bytes of the images that they name (without `read_images`, only
    their names and sizes: quicker, but a file that was changed in place passes)."""
    digest = hashlib.sha256("".join(source.fingerprint for source in data.sources).encode())
    for conversation in data.conversations() if data.surveyed else ():
        for image in conversation.images:
            if image.path is None or not Path(image.path).is_file():
                continue
            path = Path(image.path)
            digest.update(f"{path.name}:{path.stat().st_size}".encode())
            if read_images:
                digest.update(path.read_bytes())
    return digest.hexdigest()
