"""One pass over all data before a run: sizes, unusable samples, image files, and the number of rows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from smol_hf.data.conversation import Conversation, LeftOutError, SampleError, VideoPart
from smol_hf.data.media.images import load_image
from smol_hf.data.media.videos import ChosenFrames, files_of, load_frames
from smol_hf.data.records.filters import exchanges_of
from smol_hf.data.sources.source import BlockCache, Source
from smol_hf.data.stream.preparation import MeasuredSample
from smol_hf.data.stream.record_use import RecordUse
from smol_hf.data.stream.stream import Plan
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.tokenizer_of import tokenizer_of


@dataclass(frozen=True)
class Size:
    num_tokens: int
    num_tiles: int
    lost: str = ""
    num_trained: int = 0  # tokens with a label
    num_images: int = 0
    num_frames: int = 0  # of its videos
    seconds: float = 0.0  # of its videos
    num_turns: int = 0  # exchanges of user and assistant
    units: tuple[Size, ...] = ()  # the sequences of a conversation, if there are several
    number: int = 0  # of a unit


@dataclass
class Survey:
    """The size or the error of each record, by source and name.

    `use`: counts of fields, turns and images, by source. `rows`: the name of each row of a source in file order; None
    for a row without a record. `images`: path of each file of an image or a video of a source, and of each folder of
    frames → its digest, or None if missing or not yet known. `read_whole`: whether the digests are of all bytes.
    """

    found: dict[tuple[int, str], Size | SampleError] = field(default_factory=dict)
    use: dict[int, RecordUse] = field(default_factory=dict)
    rows: dict[int, list[str | None]] = field(default_factory=dict)
    images: dict[int, dict[str, str | None]] = field(default_factory=dict)
    read_whole: bool | None = None

    @property
    def total(self) -> int:
        return len(self.found)

    @property
    def tiles(self) -> int:
        """The number of tiles of all usable samples."""
        return sum(each.num_tiles for each in self.found.values() if isinstance(each, Size))

    @property
    def faults(self) -> list[SampleError]:
        return [
            each
            for each in self.found.values()
            if isinstance(each, SampleError) and not isinstance(each, LeftOutError)
        ]

    @property
    def shortened(self) -> int:
        """The number of samples that are shortened to fit the context."""
        return sum(isinstance(each, Size) and bool(each.lost) for each in self.found.values())

    @property
    def longest_run(self) -> int:
        """The longest run of faults in one source without a usable sample between them."""
        longest = run = 0
        before = None
        for (source, _), each in self.found.items():
            if source != before or not isinstance(each, SampleError):
                run, before = 0, source
            if isinstance(each, SampleError) and not isinstance(each, LeftOutError):
                run += 1
            longest = max(longest, run)
        return longest

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Return the number of records of each source, by its name."""
        counts = Counter(source for source, _ in self.found)
        return {name: counts[source] for source, name in enumerate(names)}

    def of_sources(self, places: dict[int, int]) -> Survey:
        """Return the survey of some sources, with new numbers (old → new)."""
        found = {(places[old], where): each for (old, where), each in self.found.items() if old in places}
        numbers = [(old, new) for old, new in places.items() if old in self.rows]
        return Survey(
            found,
            {new: self.use[old] for old, new in numbers if old in self.use},
            {new: self.rows[old] for old, new in numbers},
            {new: self.images[old] for old, new in numbers if old in self.images},
            self.read_whole,
        )

    @property
    def left_out(self) -> list[SampleError]:
        return [each for each in self.found.values() if isinstance(each, LeftOutError)]


def survey(plan: Plan, *, verify_images: bool = False, advance: Callable[[], Any] | None = None) -> Survey:
    """Measure each record of the plan's sources once, in the order of the files.

    Args:
        verify_images: decode each image and each chosen frame too, to find damaged ones before the run.
        advance: called after each row, to show progress.
    """
    result = Survey()
    for index, source in enumerate(plan.sources):
        names = result.rows.setdefault(index, [])
        for where, record in source.all_rows():
            if advance is not None:
                advance()
            names.append(None if record is None else where)
            if record is None:
                continue
            try:
                result.found[index, where] = measure(plan, index, where, record, verify_images, result)
            except SampleError as fault:
                fault.source = source.name
                result.found[index, where] = fault
    return result


def measure(plan: Plan, source: int, where: str, record: Any, verify_images: bool, result: Survey) -> Size:
    """Return the size of a record, and note its images and fields in `result`. Raises SampleError."""
    if isinstance(record, SampleError):
        raise record
    reader = plan.work.readers[source]
    conversation = record if reader is None else reader(where, record)
    note_images(result, source, conversation)
    sample = plan.work.prepare(source, where, conversation)
    if verify_images:
        for image in sample.conversation.images:
            load_image(image, sample.conversation.sample_id)
        for part, frames in sample.media:
            if isinstance(part, VideoPart) and isinstance(frames, ChosenFrames):
                deque(load_frames(part, frames, sample.conversation.sample_id), maxlen=0)
    size = size_of(sample)
    note_use(result, source, sample.conversation, reader)
    tokenizer = tokenizer_of(plan.work.processor)
    result.use[source].add_labels(sample.labels, sample.conversation, tokenizer, plan.work.unknown_token_id)
    return size


def survey_first(data: Iterable[tuple[int, Conversation | SampleError]], readers: Sequence[Any]) -> Survey:
    """Note fields and images of some conversations, for a run without a survey. Nothing is measured.

    Args:
        data: (source, sample) pairs.
        readers: of the sources.
    """
    result = Survey()
    for source, sample in data:
        if isinstance(sample, Conversation):
            note_images(result, source, sample)
            note_use(result, source, sample, readers[source])
    return result


def note_images(result: Survey, source: int, conversation: Conversation) -> None:
    files = result.images.setdefault(source, {})
    files.update(dict.fromkeys(image.path for image in conversation.images if image.path is not None))
    for video in conversation.videos:
        files.update(dict.fromkeys([] if video.path is None else files_of(video.path)))


def note_use(result: Survey, source: int, conversation: Conversation, reader: Any) -> None:
    folder = getattr(reader, "media_folder", None)  # of images, where they are files
    result.use.setdefault(source, RecordUse()).add(conversation, folder)


def size_of(sample: MeasuredSample) -> Size:
    units = sample.units if len(sample.sequences) > 1 else ()
    return Size(
        sample.num_tokens,
        sample.num_tiles,
        sample.lost,
        num_trained=sum(label != IGNORE_INDEX for label in sample.labels),
        num_images=len(sample.conversation.images),
        num_frames=sum(len(video.times) for video in sample.videos),
        seconds=sum(video.duration for video in sample.videos),
        num_turns=len(exchanges_of(sample.conversation)[1]),
        units=tuple(Size(each.num_tokens, each.num_tiles, number=each.number) for each in units),
    )


class Measured:
    """Rows of known sizes, instead of a lane's `BlockCache` and its `Work`: nothing is read or decoded."""

    def __init__(self, sources: list[Source], found: Survey):
        self.sources, self.found = sources, found
        self.firsts = [np.cumsum([0, *source.block_sizes]) for source in sources]

    def row(self, source: int, block: int, row: int) -> tuple[str, Size | SampleError | None]:
        where = self.found.rows[source][self.firsts[source][block] + row]
        return ("", None) if where is None else (where, self.found.found[source, where])

    def prepare(self, source: int, where: str, record: Size) -> Size:
        return record

    def encode(self, source: int, prepared: Size) -> Size:
        return prepared


def count_rows(plan: Plan, rounds: int, cache: BlockCache | Measured) -> list[int]:
    """Count the rows of each lane of the plan in some rounds.

    Args:
        cache: of the rows. The plan's work must know their sizes, and decode nothing.
    """
    counting, counts = replace(plan, rounds=rounds), []
    for lane in counting.some_lanes(range(plan.lanes), cache, {}):
        while not lane.next_row().finished:
            pass
        counts.append(lane.rows - 1)
    return counts
