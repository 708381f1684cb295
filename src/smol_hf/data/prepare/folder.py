"""Write data of any shape as LLaVA's JSON lines with folders of images and videos, or as shards of parquet."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smol_hf.data.mixture.mixture import Data
from smol_hf.data.prepare.shards import prepare_shard, refuse_full
from smol_hf.data.prepare.writing import SKIPPED, Options, refuse_nothing, write_source
from smol_hf.support.atomic import atomic_folder

DATA_SUFFIXES = (".jsonl", ".json", ".parquet")


def prepare(
    data: Data,
    output: str | Path,
    *,
    form: str = "parquet",
    rows_per_shard: int | None = None,
    verify_images: bool = False,
    allow_outside: bool = False,
    shard: tuple[int, int] | None = None,
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
        shard: (k, n) writes only the k-th of n parts of the rows, see `prepare_shard`.
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
    options = Options(form, rows_per_shard, verify_images, allow_outside)
    names = folder_names([source.name for source in data.sources]) if len(data.sources) > 1 else ["."]
    if shard is not None:
        return {"output": str(output), "format": form, **prepare_shard(data, output, names, shard, options, advance)}
    refuse_full(output)
    with atomic_folder(output) as folder:
        skipped = folder / SKIPPED
        sources = [
            {"folder": name, **write_source(data, index, folder / name, skipped, options, advance)}
            for index, name in enumerate(names)
        ]
        refuse_nothing(sources, skipped)
    return {"output": str(output), "format": form, "sources": sources}


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
