"""Write the samples of a source. Each record is read back before it is written.

A sample that is not read back as the same conversation is left out and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.media.images import load_image, open_encoded, open_image
from smol_hf.data.media.videos import ListedVideo
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.prepare.records import Encoded, EncodedVideo
from smol_hf.data.prepare.writers import WRITERS
from smol_hf.data.report.reasons import reasons_of
from smol_hf.data.report.skipped import entry_of, fault_of
from smol_hf.data.stream.record_use import RecordUse, is_outside
from smol_hf.support.formatting import counted
from smol_hf.support.sample_lists import append_entries, whole_lines

SKIPPED = "skipped.jsonl"


class OutsideError(ValueError):
    """An image or a video outside the folder of images, which must be allowed before it is copied."""


@dataclass(frozen=True)
class Options:
    """Options of `prepare`, see there. Raises ValueError for an unknown format and for a useless `rows_per_shard`."""

    form: str = "parquet"
    rows_per_shard: int | None = None
    verify_images: bool = False
    allow_outside: bool = False

    def __post_init__(self):
        if self.form not in WRITERS:
            raise ValueError(f"format is {self.form!r}: choose one of {', '.join(WRITERS)}")
        if self.rows_per_shard is not None and (self.form != "parquet" or self.rows_per_shard < 1):
            problem = "it is of the format parquet and at least 1"
            raise ValueError(f"rows_per_shard is {self.rows_per_shard}: {problem}")


def write_source(
    data: Data,
    index: int,
    folder: Path,
    skipped: Path,
    options: Options,
    advance: Callable[[], Any] | None,
    first: int = 0,
    last: int | None = None,
) -> dict[str, Any]:
    """Write the usable samples of one source to `folder`, and list the others in the file `skipped`.

    Args:
        index: of the source.
        first, last: the range of its rows, by default all.

    Returns:
        The counts of a source, see `prepare`.
    """
    source, media_folder = data.sources[index], getattr(data.readers[index], "media_folder", None)
    writer = WRITERS[options.form](folder, options.rows_per_shard)
    use, records, left_out = RecordUse(), 0, 0
    for sample in data.samples_of(index, first, last):
        records += 1
        try:
            if isinstance(sample, SampleError):
                raise sample
            if not options.allow_outside:
                refuse_outside(sample, media_folder)
            writer.write(sample, encoded_media(sample, options.verify_images))
            use.add(sample, media_folder)
        except SampleError as fault:
            fault.source = source.name
            left_out += 1
            append_entries(skipped, [entry_of(fault)])
        if advance is not None:
            advance()
    writer.close()
    return {
        "name": source.name,
        "records": records,
        "written": writer.written,
        "left_out": left_out,
        "reasons": reasons_in([skipped], source.name),
        **use.facts(),
        **writer.facts(),
    }


def reasons_in(lists: Iterable[Path], source: str) -> list[dict[str, Any]]:
    """Return the facts of the reasons in some lists of skipped samples, for one source."""
    entries = (entry for path in lists if path.exists() for entry in whole_lines(path) if entry["source"] == source)
    return [reason.facts() for reason in reasons_of(map(fault_of, entries))]


def refuse_nothing(sources: list[dict[str, Any]], skipped: Path) -> None:
    """Raise SampleError with the first skipped sample if none was written."""
    if not any(each["written"] for each in sources):
        entries = whole_lines(skipped) if skipped.exists() else ()
        first = next((f"; the first: {fault_of(entry)}" for entry in entries), "")
        records = sum(each["records"] for each in sources)
        raise SampleError("", f"none of {counted(records, 'sample')} can be used{first}")


def refuse_outside(sample: Conversation, folder: Path | None) -> None:
    """Raise OutsideError for a sample with the file of an image or a video outside the folder."""
    for part in sample.media:
        if is_outside(part, folder):
            kind = "image" if isinstance(part, ImagePart) else "video"
            raise OutsideError(
                f"{sample.sample_id}: the {kind} {part.path} lies outside the folder {folder}: copy it there, or "
                f"allow such {kind}s with --allow-outside"
            )


def encoded_media(conversation: Conversation, verify: bool) -> list[Encoded | EncodedVideo]:
    """Return the encoded images and videos in reading order. Raises SampleError for one that cannot be read."""
    where = conversation.sample_id
    media: list[Encoded | EncodedVideo] = []
    for part in conversation.media:
        if not isinstance(part, ImagePart):
            ListedVideo(part, where)
            media.append(EncodedVideo(part))
            continue
        with open_image(part, where) as image:
            form = image.format or ""
        if verify:
            load_image(part, where)
        with open_encoded(part) as file:
            media.append(Encoded(file.read(), form))
    return media
