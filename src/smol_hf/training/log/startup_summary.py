"""What a run says before its first step: its data, what becomes of a picture, what is left out."""

from __future__ import annotations

from torch import nn

from smol_hf.data.mixture.mixture import Data
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.record_use import describe_sources
from smol_hf.processing.chat_turns import rewrites_answers
from smol_hf.training.model.lora import rank_warning
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments


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
    lines += describe_sources(data.found.use, [source.name for source in data.sources])
    if not data.surveyed and steps is not None:
        lines.append(
            f"the data was not looked through: {steps:,} steps are the most that it makes, and the "
            "schedule is planned for them (packing makes fewer); the run ends with the data"
        )
    return lines


def describe_turns(work) -> list[str]:
    """What a chat template makes of conversations of several answers."""
    if isinstance(work, SampleWork) and rewrites_answers(work.processor):
        return [
            "the chat template rewrites earlier answers: each answer is trained in a sequence of its own, after what "
            "the template writes before it (each sequence must fit context_length)"
        ]
    return []


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


def warnings_of(arguments: SmolTrainingArguments, model: nn.Module, lora_r: int) -> list[str]:
    """Sentences about keys that do not do in this run what they are for."""
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
