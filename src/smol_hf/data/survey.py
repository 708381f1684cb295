"""A look at all of the data before the run: what cannot be used, by name, and how many rows it will make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.lane import Work
from smol_hf.data.engine.preparation import LeftOutError, MeasuredSample
from smol_hf.data.engine.source import BlockCache
from smol_hf.data.engine.stream import Plan
from smol_hf.data.filters import exchanges_of
from smol_hf.data.images import load_image
from smol_hf.data.record_use import RecordUse
from smol_hf.modeling.label_loss import IGNORE_INDEX


@dataclass(frozen=True)
class Size:
    num_tokens: int
    num_tiles: int
    lost: str = ""
    num_trained: int = 0  # tokens with a label
    num_images: int = 0
    num_turns: int = 0  # exchanges of user and assistant
    units: tuple[Size, ...] = ()  # the sequences of a conversation that do not see each other, where there are several
    number: int = 0  # of a unit


@dataclass
class Survey:
    """What each record is, by source and place: its size, or why it cannot be used."""

    found: dict[tuple[int, str], Size | SampleError] = field(default_factory=dict)
    use: dict[int, RecordUse] = field(default_factory=dict)  # by source

    @property
    def total(self) -> int:
        return len(self.found)

    @property
    def faults(self) -> list[SampleError]:
        return [each for each in self.found.values() if isinstance(each, SampleError) and not is_left_out(each)]

    @property
    def shortened(self) -> int:
        """Samples that lose something to fit the context."""
        return sum(isinstance(each, Size) and bool(each.lost) for each in self.found.values())

    @property
    def longest_run(self) -> int:
        """The most faults of one source that follow each other with no usable sample between them."""
        longest = run = 0
        before = None
        for (source, _), each in self.found.items():
            if source != before or not isinstance(each, SampleError):
                run, before = 0, source
            if isinstance(each, SampleError) and not is_left_out(each):
                run += 1
            longest = max(longest, run)
        return longest

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Records of each source, by its name."""
        counts = Counter(source for source, _ in self.found)
        return {name: counts[source] for source, name in enumerate(names)}

    @property
    def left_out(self) -> list[SampleError]:
        return [each for each in self.found.values() if is_left_out(each)]


def is_left_out(found: Any) -> bool:
    return isinstance(found, LeftOutError)


def survey(plan: Plan, *, verify_images: bool = False, advance: Callable[[], Any] | None = None) -> Survey:
    """Measure every record of the plan's sources, in the order of the files.

    Args:
        verify_images: decode each image as well, so that damaged ones are known before the run.
        advance: called after each row, to show progress.
    """
    result, cache = Survey(), BlockCache(plan.sources)
    for index, source in enumerate(plan.sources):
        for block, rows in enumerate(source.block_sizes):
            for row in range(rows):
                where, record = cache.row(index, block, row)
                if advance is not None:
                    advance()
                if record is None:
                    continue
                try:
                    sample = prepared(plan, index, where, record, verify_images)
                    result.found[index, where] = size_of(sample)
                    result.use.setdefault(index, RecordUse()).add(sample.conversation, media_folder(plan, index))
                except SampleError as fault:
                    fault.source = source.name
                    result.found[index, where] = fault
    return result


def media_folder(plan: Plan, source: int) -> Path | None:
    """The folder that a source's images are in, where they are files."""
    return getattr(plan.work.readers[source], "media_folder", None)


def prepared(plan: Plan, source: int, where: str, record: Any, verify_images: bool) -> MeasuredSample:
    if isinstance(record, SampleError):
        raise record
    sample = plan.work.prepare(source, where, record)
    if verify_images:
        for image in sample.conversation.images:
            load_image(image, sample.conversation.sample_id)
    return sample


def size_of(sample: MeasuredSample) -> Size:
    units = sample.units if len(sample.sequences) > 1 else ()
    return Size(
        sample.num_tokens,
        sample.num_tiles,
        sample.lost,
        num_trained=sum(label != IGNORE_INDEX for label in sample.labels),
        num_images=len(sample.conversation.images),
        num_turns=len(exchanges_of(sample.conversation)[1]),
        units=tuple(Size(each.num_tokens, each.num_tiles, number=each.number) for each in units),
    )


class Measured:
    """Work for counting: the sizes are known, and nothing is decoded."""

    def __init__(self, found: Survey):
        self.found = found.found

    def prepare(self, source: int, where: str, record: Any) -> Size:
        known = self.found[source, where]
        if isinstance(known, SampleError):
            raise known
        return known

    def encode(self, source: int, prepared: Size) -> Size:
        return prepared


def count_rows(plan: Plan, work: Work, rounds: int) -> list[int]:
    """Rows that each lane gives in so many rounds. `work` knows how long samples are, and decodes nothing."""
    cache, counts = BlockCache(plan.sources), []
    counting = replace(plan, work=work, rounds=rounds)
    for number in range(plan.lanes):
        lane = counting.lane(number, cache)
        while not lane.next_row().finished:
            pass
        counts.append(lane.rows - 1)
    return counts
