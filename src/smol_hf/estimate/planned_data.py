"""The sources of a dry run: local ones are opened and counted, others are named; nothing is downloaded.

The first rows of local sources are read for the frames of their videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from smol_hf.data.conversation import Conversation, SampleError, TextPart
from smol_hf.data.digits import EMBEDDED
from smol_hf.data.media.videos import ListedVideo
from smol_hf.data.mixture.failed_sources import FailedSource, refuse_failed
from smol_hf.data.mixture.mixture import MixtureEntry, located, parse_entries
from smol_hf.data.sources.files import is_remote
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.sources.location import open_location
from smol_hf.processing.video_decoding import MissingReaderError
from smol_hf.processing.video_sampling import VideoSampling
from smol_hf.text.documents.readers import open_documents
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.sources import entry_of, of_key

HERE, MISSING = "this machine", "missing"
ROWS_READ = 16  # of a local source
MAX_FRAMES = 64  # of a video, without the key and without the processor


@dataclass
class PlannedSource:
    """A source of a recipe.

    Attributes:
        place: `HERE`, the Hub or another URL, or `MISSING`.
        rows: its number of records; None if unknown without a download.
        records: of them in one round of the data.
        held_out: about the number of its further records that are held out for validation.
    """

    name: str
    place: str
    rows: int | None = None
    records: float | None = None
    modality: str | None = None
    held_out: int = 0


def planned_sources(data: DataArguments | PreferenceArguments) -> list[PlannedSource]:
    """Look at the sources of a recipe. Raises RecipeError, SampleError, FileNotFoundError for unusable local ones."""
    with recipe_errors("the data cannot be used"):
        if isinstance(data, PreferenceArguments):
            names = [data.data, *([data.validation_data] if data.validation_data is not None else [])]
            return [look_at(MixtureEntry(name)) for name in names]
        if data.documents is not None:
            both = (data.documents, data.validation_documents)
            return [look_at_documents(name) for name in both if name is not None]
        others = [] if data.eval_data is None else [MixtureEntry(data.eval_data)]
        for key, entries in (("eval_data", others), ("eval_mixture", parse_entries(data.eval_mixture or []))):
            with of_key(key):
                for entry in entries:
                    look_at(entry, data)  # an error if it is missing
        found = [look_at(entry_of(data), data)] if data.mixture is None else look_at_mixture(data)
    refuse_nothing(found, data.eval_fraction)
    return found


def refuse_nothing(sources: list[PlannedSource], eval_fraction: float) -> None:
    """Raise RecipeError if the sources have no row to train on. An unknown number is not 0."""
    if any(source.rows != 0 for source in sources):
        return
    why = f": eval_fraction {eval_fraction} holds all out, choose a smaller one" if eval_fraction else ""
    raise RecipeError(f"{', '.join(source.name for source in sources)} has no sample to train on{why}")


@dataclass
class SeenRow:
    """A row that was read: its `frames` of videos, other `images`, and `characters` of text."""

    frames: int
    images: int
    characters: int


def seen_rows(data: DataArguments | PreferenceArguments) -> list[SeenRow]:
    """Read the usable ones of the first rows of each local source of conversations. Nothing is decoded."""
    if isinstance(data, PreferenceArguments) or data.documents is not None:
        return []
    entries = [entry_of(data)] if data.mixture is None else parse_entries(data.mixture)
    with recipe_errors("the frames of videos cannot be chosen"):
        most = data.video_max_frames or MAX_FRAMES
        sampling = VideoSampling(data.video_fps or 1.0, most, data.video_min_frames or 1)
    return [row for entry in entries for row in first_rows(entry, data.data_root, sampling)]


def first_rows(entry: MixtureEntry, data_root: str | None, sampling: VideoSampling) -> Iterator[SeenRow]:
    if entry.data in EMBEDDED:
        return
    with suppress(OSError):  # a missing source, see `look_at_mixture`
        if place_of(located(entry.data, data_root)) != HERE:
            return
        source, reader = entry.open(data_root=data_root)
        for where, record in itertools.islice(source.all_rows(), ROWS_READ):
            if record is None or isinstance(record, SampleError) or reader is None:
                continue
            with suppress(SampleError):  # the run counts it
                yield row_of(reader(where, record), sampling)


def row_of(conversation: Conversation, sampling: VideoSampling) -> SeenRow:
    """Count the parts of a row. A video without a reader has as many frames as it may have."""
    frames = 0
    for video in conversation.videos:
        try:
            frames += len(ListedVideo(video, conversation.sample_id).choose(sampling).times)
        except MissingReaderError:
            frames += sampling.max_frames
    texts = (part.text for each in conversation.messages for part in each.parts if isinstance(part, TextPart))
    return SeenRow(frames, len(conversation.images), sum(map(len, texts)))


def place_of(data: str) -> str:
    if (dataset := hub_id(data)) is not None:
        return f"the Hub ({dataset})"
    return data if is_remote(data) else HERE


def look_at(entry: MixtureEntry, data: DataArguments | None = None) -> PlannedSource:
    """Open a source of this machine. `data`: keys of its recipe."""
    path = located(entry.data, None if data is None else data.data_root)
    place, rows = place_of(path), entry.available
    if entry.data in EMBEDDED and data is not None:
        rows = data.num_pages
    elif place == HERE:
        rows = len(open_location(path).source)
    held_out = 0 if rows is None or data is None else round(rows * data.eval_fraction)
    rows = None if rows is None else rows - held_out
    return PlannedSource(entry.label, place, rows, entry.records(rows), entry.modality, held_out)


def look_at_documents(name: str) -> PlannedSource:
    place = place_of(name)
    if place == HERE:
        open_documents(name)
    return PlannedSource(name, place, modality="text")


def look_at_mixture(data: DataArguments) -> list[PlannedSource]:
    """Look at the entries of a mixture. A missing one is an error, or left out if the recipe allows it."""
    assert data.mixture is not None
    found, failed = [], []
    for entry in parse_entries(data.mixture):
        try:
            found.append(look_at(entry, data))
        except (OSError, SampleError) as error:
            records = entry.records(entry.available)
            failed.append(FailedSource(entry.label, str(error), entry.modality, records))
            found.append(PlannedSource(entry.label, MISSING, entry.available, records, entry.modality))
    refuse_failed(failed, len(found), data.on_failed_source)
    return found


def shares_of(sources: list[PlannedSource]) -> dict[str, float] | None:
    """Return the planned share of each modality, or of each source if none has one; None if sizes are unknown."""
    sums: dict[str, float] = {}
    by_modality = any(source.modality for source in sources)
    for source in sources:
        if source.records is None:
            return None
        key = (source.modality or "not named") if by_modality else source.name
        sums[key] = sums.get(key, 0) + source.records
    total = sum(sums.values())
    return {key: number / total for key, number in sums.items()} if total else None


def describe(sources: list[PlannedSource]) -> list[dict[str, Any]]:
    return [asdict(source) for source in sources]
