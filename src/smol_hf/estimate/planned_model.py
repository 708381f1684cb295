"""The model of a dry run: its configuration, from a checkpoint, a preset or the keys of a new model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from smol_hf.data.digits import EMBEDDED
from smol_hf.estimate.planned_data import MAX_FRAMES, SeenRow
from smol_hf.estimate.target import Target, find_target
from smol_hf.estimate.traced_step import StepShape
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.training.data import context_length
from smol_hf.training.model.composition import SMALL_VOCABULARY, build_config_and_processor, with_preset
from smol_hf.training.model.lora import freeze_what_has_no_adapter
from smol_hf.training.model.parts import refuse_changing_features
from smol_hf.training.model.presets import PRESETS
from smol_hf.training.model.text_composition import DEFAULT_VOCABULARY, change_positions
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import refuse_model_in_the_way, result_of

FRAME_TEXT = 16  # tokens around a frame: its time and marks
CHARACTERS = 2  # of a token, if the vocabulary is not tiny; a tokenizer writes more
SAME_SIZES = {"smolvlm-256m": "smolvlm2-256m", "smolvlm-500m": "smolvlm2-500m", "smolvlm-2.2b": "smolvlm2-2.2b"}


def planned_target(
    model: ModelArguments,
    data: DataArguments | PreferenceArguments,
    training: SmolTrainingArguments | DPOArguments,
    earlier: Mapping[str, Target | None],
) -> tuple[Target | None, str]:
    """Return the model of a recipe with its batch, and a sentence about its origin.

    The target is None if the model is not on this machine and no preset has its name.

    Args:
        earlier: model of each earlier stage, by the path of its result.

    Raises:
        RecipeError: for a missing local checkpoint, an unfinished stage, and a model that cannot read the data.
    """
    if model.model is None:
        base, origin = new_model(model, isinstance(data, DataArguments) and data.documents is not None)
    else:
        base, origin = named_model(model.model, Path(str(training.output_dir)), earlier)
    if base is None:
        return None, origin
    config = copy.deepcopy(base.config)
    if model.model is not None:
        change_positions(config, model)
    check_data(config, data, origin)
    rates = training.part_learning_rates() if isinstance(training, SmolTrainingArguments) else {}
    if model.use_peft and isinstance(training, SmolTrainingArguments):
        freeze_what_has_no_adapter(model, training)
        rates = training.part_learning_rates()
    if model.cache_image_features:
        refuse_changing_features(config, rates)
    preferences = isinstance(data, PreferenceArguments)
    asked = training.max_length if preferences else data.context_length
    target = replace(
        base,
        config=config,
        batch_size=training.per_device_train_batch_size * (2 if preferences else 1),  # a pair has two answers
        length=context_length(asked, config),
        tiler=tiler_of(base, config, model),
        gradient_checkpointing=training.gradient_checkpointing,
        dtype=model.dtype,
        frozen=tuple(part for part, rate in rates.items() if rate == 0),
        lora=model if model.use_peft else None,
    )
    return target, origin


def new_model(model: ModelArguments, documents: bool) -> tuple[Target, str]:
    """Build the configuration of a new model. Its tokenizer is neither downloaded nor trained."""
    merged = with_preset(model)
    origin = f"preset {model.preset}, random weights" if model.preset is not None else "a new model, random weights"
    text = dict(merged.text_config or {})
    sees = merged.vision_config is not None
    if model.tokenizer is not None and not Path(model.tokenizer).is_dir():
        merged = replace(merged, tokenizer=None)
        origin += f"; the tokenizer {model.tokenizer} is not on this machine"
        if "vocab_size" not in text:
            raise RecipeError(
                f"{origin}, so the number of its tokens is unknown: download it, or set text_config.vocab_size"
            )
    if merged.tokenizer is None:
        text.setdefault("vocab_size", model.tokenizer_vocab_size or (SMALL_VOCABULARY if sees else DEFAULT_VOCABULARY))
    config, processor = build_config_and_processor(replace(merged, text_config=text), (), documents=documents)
    return Target("the recipe", config, tiler=getattr(processor, "tiler", None)), origin


def named_model(name: str, output_dir: Path, earlier: Mapping[str, Target | None]) -> tuple[Target | None, str]:
    """Find the model that a recipe names: a stage, a local checkpoint, or a preset of the same name."""
    for result, target in earlier.items():
        if Path(name) in (Path(result), Path(result).parent):
            return target, f"the result of an earlier stage, {result}"
    name = result_of(name)
    refuse_model_in_the_way(name, output_dir)
    if Path(name).is_dir():
        return find_target(name), f"the checkpoint {name}"
    last = Path(name).name.lower()
    known = {**{preset: preset for preset in PRESETS}, **SAME_SIZES}
    missing = f"{name} is not on this machine"
    if found := [prefix for prefix in known if last == prefix or last.startswith(f"{prefix}-")]:
        preset = known[max(found, key=len)]
        return find_target(preset), f"{missing}: the sizes are those of the preset {preset}"
    return None, f"{missing}, so its sizes are unknown"


def check_data(config, data: DataArguments | PreferenceArguments, origin: str) -> None:
    """Refuse a model that cannot read the data. Raises RecipeError."""
    sees = isinstance(config, SmolHFConfig)
    if sees and (isinstance(data, PreferenceArguments) or data.documents is not None):
        raise RecipeError(f"documents and preferences are text-only, but this is a vision-language model: {origin}")
    if not sees and isinstance(data, DataArguments) and shows_images(data):
        raise RecipeError(
            f"the data has images, but the model is a language model ({origin}): add an image encoder with smol-hf "
            "compose"
        )


def shows_images(data: DataArguments) -> bool:
    """Return True if the recipe says that its data has images."""
    if data.documents is not None:
        return False
    if data.mixture is None:
        return data.data in EMBEDDED and data.data != "digit_stories"
    return any(entry.get("modality") in ("image", "multiimage", "video") for entry in data.mixture)


def tiler_of(base: Target, config, model: ModelArguments) -> ImageTiler | None:
    """Return the tiler with the recipe's tiling of images; None for a text-only model."""
    if not isinstance(config, SmolHFConfig) or base.tiler is None:
        return None
    split = base.tiler.do_image_splitting and model.do_image_splitting
    return ImageTiler(config.image_side, model.longest_edge or base.tiler.longest_edge, split)


def planned_step(target: Target, data: DataArguments | PreferenceArguments, seen: Sequence[SeenRow] = ()) -> StepShape:
    """Return the step of full rows; each has one video or one large image. Raises RecipeError if they do not fit.

    Args:
        seen: the first rows of local data. If they show videos, a row has as many frames as these. Without packing, it
            is as long as the longest of them.
    """
    if not isinstance(target.config, SmolHFConfig) or target.tiler is None or not isinstance(data, DataArguments):
        return StepShape(target.batch_size, target.length, 0, target.length - 1)
    tokens, side = target.config.image_seq_len, target.tiler.max_tiles_per_side
    if tokens >= target.length:
        raise RecipeError(
            f"context_length {target.length} does not fit an image: one tile has {tokens} tokens, and a question is "
            "needed too"
        )
    has_videos = any(row.frames for row in seen)
    frames = max(row.frames for row in seen) if has_videos else most_frames(data)
    if frames * tokens >= target.length and "frames" not in data.too_long:
        raise RecipeError(
            f"{frames} frames of {tokens} tokens do not fit context_length {target.length}: lower video_max_frames, "
            "or set too_long: [frames]"
        )
    grid = side * side + 1 if side > 1 else 1
    if has_videos:
        return step_of_videos(target, data, seen, grid)
    largest = max(grid, frames)
    tiles = min(largest, (target.length - 1) // tokens) if data.mixture is None or shows_images(data) else 0
    return StepShape(target.batch_size, target.length, tiles * target.batch_size, target.length - tiles * tokens - 1)


def step_of_videos(target: Target, data: DataArguments, seen: Sequence[SeenRow], grid: int) -> StepShape:
    """Return the step of rows like those that were seen. An image has the largest `grid` of tiles."""
    tokens, vocabulary = target.config.image_seq_len, target.config.get_text_config().vocab_size
    per_token = 1 if vocabulary <= SMALL_VOCABULARY else CHARACTERS
    tiles = [row.frames + row.images * grid for row in seen]
    lengths = [
        each * tokens + row.frames * FRAME_TEXT + math.ceil(row.characters / per_token)
        for each, row in zip(tiles, seen)
    ]
    length = target.length if data.sample_packing else min(max(lengths), target.length)
    room = (length - 1) // tokens
    in_a_row = math.ceil(length * sum(tiles) / sum(lengths)) if data.sample_packing else max(tiles)
    number = min(max(in_a_row, max(tiles)), data.max_tiles_per_row or room, room)
    return StepShape(target.batch_size, length, number * target.batch_size, max(length - number * tokens - 1, 1))


def most_frames(data: DataArguments) -> int:
    """Return the largest number of frames of a video; 0 if the recipe names no videos."""
    named = any(entry.get("modality") == "video" for entry in data.mixture or ()) or data.video_max_frames is not None
    return (data.video_max_frames or MAX_FRAMES) if named else 0
