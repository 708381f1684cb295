"""What a run says before its first step: its data, what becomes of a picture, what is left out."""

from __future__ import annotations

from dataclasses import replace

from smol_hf.data.conversation import Conversation
from smol_hf.data.mixture import Data
from smol_hf.data.record_use import RecordUse, describe_sources
from smol_hf.data.skipped import SkippedSamples
from smol_hf.training.data_arguments import DataArguments

FIRST_RECORDS = 1000  # of each source, where a run begins without a look at all of them


def describe_samples(data: Data, arguments: DataArguments, skipped: SkippedSamples, steps: int | None) -> list[str]:
    """How many samples there are, and what they lose.

    Args:
        steps: of a run whose length is that of its data; None: the recipe says how long it is.
    """
    total = data.found.total or sum(len(source) for source in data.sources)
    names = ", ".join(source.name for source in data.sources)
    lines = [f"{total - len(skipped):,} samples from {names}; {skipped.summary()}"]
    if data.found.shortened:
        lines.append(f"{data.found.shortened:,} of them lose {' or '.join(arguments.too_long)} to fit")
    lines += describe_sources(data.found.use or use_of_first(data), [source.name for source in data.sources])
    if not data.surveyed and steps is not None:
        lines.append(
            f"the data was not looked through: {steps:,} steps are the most that it makes, and the "
            "schedule is planned for them (packing makes fewer); the run ends with the data"
        )
    return lines


def use_of_first(data: Data) -> dict[int, RecordUse]:
    """What is used of the first records of each source on this machine, where nobody looked at all of them."""
    found: dict[int, RecordUse] = {}
    here = [not source.remote and reader is not None for source, reader in zip(data.sources, data.readers)]
    if not any(here):
        return found
    local = replace(
        data,
        sources=[source for source, is_here in zip(data.sources, here) if is_here],
        readers=[reader for reader, is_here in zip(data.readers, here) if is_here],
    )
    places = [index for index, is_here in enumerate(here) if is_here]
    for index, sample in local.samples(FIRST_RECORDS):
        if isinstance(sample, Conversation):
            use = found.setdefault(places[index], RecordUse())
            use.add(sample, local.readers[index].media_folder)
    return found


def describe_pictures(processor) -> str:
    """What becomes of a picture, so that nobody wonders why small writing is not read."""
    tile, tokens, side = processor.tile_size, processor.image_seq_len, processor.tiler.max_tiles_per_side
    if side < 2:
        return f"a picture becomes one tile of {tile} × {tile} pixels, {tokens} tokens"
    return (
        f"a picture is brought to {processor.longest_edge} pixels on its longer side and cut into tiles of "
        f"{tile} × {tile}, {tokens} tokens each, at most {side} × {side} and an overview"
    )


def describe_vocabulary(tokenizer, config) -> str:
    """How many tokens there are, and for how many the model has room."""
    size, rows = len(tokenizer), config.get_text_config().vocab_size
    room = f", of {rows:,} that the model has room for: the others are never learned" if size < rows else ""
    return f"the tokenizer has {size:,} tokens{room}"
