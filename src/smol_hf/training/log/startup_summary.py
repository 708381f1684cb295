"""The summary before the first step: samples, tiling of images, vocabulary, warnings, parameters."""

from __future__ import annotations

from rich.table import Table
from torch import nn

from smol_hf.data.mixture.mixture import Data
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.record_use import describe_sources, describe_unknown
from smol_hf.processing.chat_turns import rewrites_answers
from smol_hf.processing.video_reader import reader_name
from smol_hf.support.formatting import counted
from smol_hf.training.model.lora import rank_warning
from smol_hf.training.model.parts import NEW_TOKENS, FreezeSchedule, count_parameters
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments


def describe_samples(data: Data, arguments: DataArguments, skipped: SkippedSamples, steps: int | None) -> list[str]:
    """Say how many samples there are and how many are shortened.

    Args:
        steps: of a run that is as long as its data; None if the recipe sets the length.
    """
    total = data.found.total or sum(len(source) for source in data.sources)
    names = ", ".join(source.name for source in data.sources)
    lines = [f"{counted(total - len(skipped), 'sample')} from {names}; {skipped.summary()}"]
    if data.found.shortened:
        lines.append(f"{data.found.shortened:,} of them lose {' or '.join(arguments.too_long)} to fit")
    lines += describe_sources(data.found.use, [source.name for source in data.sources])
    lines += describe_unknown(data.found.use)
    if not data.surveyed and steps is not None:
        lines.append(
            f"the data was not measured: the schedule is planned for {steps:,} steps, the most that it can make "
            "(packing makes fewer); the run ends with the data"
        )
    return lines


def describe_turns(work) -> list[str]:
    """Say if the chat template trains each answer in a sequence of its own."""
    if isinstance(work, SampleWork) and rewrites_answers(work.processor):
        return [
            "the chat template rewrites earlier answers: each answer is trained in a sequence of its own, which must "
            "fit context_length"
        ]
    return []


def describe_images(processor) -> str:
    """Say how images are resized and tiled, since small writing may become unreadable."""
    tile, tokens, side = processor.tile_size, processor.image_seq_len, processor.tiler.max_tiles_per_side
    if side < 2:
        return f"an image becomes one tile of {tile} × {tile} pixels, {tokens} tokens"
    return (
        f"an image is resized to {processor.longest_edge} pixels on its longer side and cut into tiles of "
        f"{tile} × {tile}, {tokens} tokens each, at most {side} × {side} and an overview"
    )


def describe_videos(processor) -> str:
    """Say how videos are read, and how many frames they get."""
    sampling = processor.video_sampling
    return (
        f"a video is read by {reader_name()} and becomes {sampling.min_frames} to {sampling.max_frames} frames, "
        f"{sampling.fps:g} per second; a frame becomes one tile, {processor.image_seq_len} tokens"
    )


def describe_vocabulary(tokenizer, config) -> str:
    """Say how many tokens the tokenizer has, and how many rows the model has for them."""
    size, rows = len(tokenizer), config.get_text_config().vocab_size
    room = f"; the model has {rows:,} rows, and the others are never learned" if size < rows else ""
    return f"the tokenizer has {size:,} tokens{room}"


def warnings_of(arguments: SmolTrainingArguments, model: nn.Module, lora_r: int) -> list[str]:
    """Return sentences about keys that have no effect in this run."""
    lines = []
    first, steps = arguments.unfreeze_vision_at_step, arguments.max_steps
    if first >= steps and arguments.part_learning_rates()["vision"] > 0 and hasattr(model, "vision_model"):
        lines.append(
            f"warning: unfreeze_vision_at_step {first:,} is not before the end of the run ({steps:,} steps): the "
            "image encoder is never trained"
        )
    if rank := rank_warning(model, lora_r):
        lines.append(rank)
    return lines


def parameter_table(model: nn.Module, schedule: FreezeSchedule) -> Table:
    """Return a table of the parameters of each part: total, trained at the first step, and the peak learning rate."""
    counts = count_parameters(model)
    table = Table("part", title="Parameters", title_justify="left")
    table.add_column("total", justify="right")
    table.add_column("trained at first", justify="right")
    table.add_column("learning rate")
    for part, count in counts.items():
        frozen, peak = schedule.is_frozen(part, 0), schedule.learning_rates[part]
        rate = f"{peak:g}" if peak else "frozen"
        if frozen and peak:
            rate += f", from step {schedule.unfreeze_vision_at_step}"
        table.add_row(part, f"{count['total']:,}", "0" if frozen else f"{count['trainable']:,}", rate)
    if schedule.new_token_weights:
        table.add_row("rows of new tokens", "in text", "all", f"{schedule.learning_rates[NEW_TOKENS]:g}")
    total = sum(count["total"] for count in counts.values())
    trained = sum(count["trainable"] for part, count in counts.items() if not schedule.is_frozen(part, 0))
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trained:,}", "")
    return table
