"""Write data of any shape as LLaVA's JSON lines with folders of images and videos, or as shards of parquet.

Each record is read back before it is written. A sample that does not survive this is left out and named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.media.images import load_image, open_encoded, open_image
from smol_hf.data.media.videos import ListedVideo
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.prepare.records import Encoded, EncodedVideo
from smol_hf.data.prepare.writers import WRITERS
from smol_hf.data.report.reasons import reasons_of
from smol_hf.data.report.skipped import entry_of
from smol_hf.data.stream.record_use import RecordUse, is_outside
from smol_hf.support.atomic import atomic_folder
from smol_hf.support.formatting import counted
from smol_hf.support.sample_lists import append_entries

SKIPPED = "skipped.jsonl"
DATA_SUFFIXES = (".jsonl", ".json", ".parquet")


class OutsideError(ValueError):
    """An image or a video outside the folder of images, which must be allowed before it is copied."""


def prepare(
    data: Data,
    output: str | Path,
    *,
    form: str = "parquet",
    rows_per_shard: int | None = None,
    verify_images: bool = False,
    allow_outside: bool = False,
    advance: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Write the usable samples, each once and in the order of the files, whatever the weights.

    One source is written to `output`, several to a folder each. `skipped.jsonl` lists the samples that were left out.
    The folder appears only if the command succeeds.

    Args:
        form: `llava` (data.jsonl, images/ and videos/) or `parquet`.
        rows_per_shard: samples of a parquet file; about 500 MB by default.
        verify_images: decode each image, to leave out damaged ones. Otherwise only headers are read.
        allow_outside: copy images and videos outside the folder of images too. Otherwise they are an error.
        advance: called after each record, to show progress.

    Returns:
        Counts: for each source `records`, `written`, `left_out` with its `reasons`, `images` and `videos` (those in
        several samples counted once by `llava`), their `bytes`, `as_messages` (records that LLaVA's form cannot
        express), and the counts of `RecordUse`.

    Raises:
        ValueError: for an unknown form or option, and for a video of separate frames in parquet.
        FileExistsError: for an `output` with files.
        SampleError: if no sample can be used. OutsideError: see `allow_outside`.
    """
    output = Path(output)
    if form not in WRITERS:
        raise ValueError(f"format is {form!r}: choose one of {', '.join(WRITERS)}")
    if rows_per_shard is not None and (form != "parquet" or rows_per_shard < 1):
        raise ValueError(f"rows_per_shard is {rows_per_shard}: it is of the format parquet and at least 1")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: name a folder that is empty or not there yet")
    with atomic_folder(output) as folder:
        facts = write_sources(data, folder, form, rows_per_shard, verify_images, allow_outside, advance)
    return {"output": str(output), "format": form, **facts}


def write_sources(
    data: Data, folder: Path, form: str, rows_per_shard, verify_images: bool, allow_outside: bool, advance
) -> dict[str, Any]:
    names = folder_names([source.name for source in data.sources])
    folders = [folder / name for name in names] if len(names) > 1 else [folder]
    writers = [WRITERS[form](each, rows_per_shard) for each in folders]
    records: Counter = Counter()
    faults: list[list[SampleError]] = [[] for _ in names]
    uses = [RecordUse() for _ in names]
    media_folders = [getattr(reader, "media_folder", None) for reader in data.readers]
    for index, sample in data.samples():
        records[index] += 1
        try:
            if isinstance(sample, SampleError):
                raise sample
            if not allow_outside:
                refuse_outside(sample, media_folders[index])
            writers[index].write(sample, encoded_media(sample, verify_images))
            uses[index].add(sample, media_folders[index])
        except SampleError as fault:
            fault.source = data.sources[index].name
            faults[index].append(fault)
            append_entries(folder / SKIPPED, [entry_of(fault)])
        if advance is not None:
            advance()
    for writer in writers:
        writer.close()
    if not any(writer.written for writer in writers):
        first = next((f"; the first: {fault}" for each in faults for fault in each), "")
        raise SampleError("", f"none of {counted(sum(records.values()), 'sample')} can be used{first}")
    return {
        "sources": [
            {
                "name": source.name,
                "folder": "." if each == folder else each.name,
                "records": records[index],
                "written": writers[index].written,
                "left_out": len(faults[index]),
                "reasons": [reason.facts() for reason in reasons_of(faults[index])],
                **uses[index].facts(),
                **writers[index].facts(),
            }
            for index, (source, each) in enumerate(zip(data.sources, folders))
        ]
    }


def refuse_outside(sample: Conversation, folder: Path | None) -> None:
    """Raise OutsideError for a sample with the file of an image or a video outside the folder."""
    for part in sample.media:
        if is_outside(part, folder):
            kind = "image" if isinstance(part, ImagePart) else "video"
            raise OutsideError(
                f"{sample.sample_id}: the {kind} {part.path} lies outside the folder {folder}: copy it there, or "
                f"allow such {kind}s with --allow-outside"
            )


def folder_names(names: list[str]) -> list[str]:
    """Return a folder name for each source, without file suffixes; equal names are numbered."""
    result: list[str] = []
    for name in names:
        plain = name
        for suffix in DATA_SUFFIXES:
            plain = plain.removesuffix(suffix)
        plain = re.sub(r"[^\w.-]+", "-", plain).strip(".") or "source"
        number, unique = 2, plain
        while unique in result:
            unique, number = f"{plain}-{number}", number + 1
        result.append(unique)
    return result


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
