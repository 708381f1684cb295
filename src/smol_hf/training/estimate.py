"""`smol-hf estimate`: how large a model is, what a step costs and how much memory it takes, before it is trained."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from smol_hf.data.conversation import Conversation
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.image_tiling import ImageTiler
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.composition import build_model_and_processor
from smol_hf.training.presets import PRESETS, preset_config
from smol_hf.training.recipes import RecipeError, load_arguments, nearest
from smol_hf.training.run import load_conversations
from smol_hf.training.traced_step import StepShape, count_flops, trace

PICTURES = (
    (224, 224),
    (512, 512),
    (768, 1024),
    (1080, 1920),
    (1754, 1240),
)  # height, width; the last is A4 at 150 dpi
OPTIMIZERS = {
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-3),
    "sgd": functools.partial(torch.optim.SGD, lr=1e-3),
}
SAMPLED = 1000  # conversations of a recipe's data, from which its small tokenizer is trained


@dataclass(frozen=True)
class Target:
    """A model to estimate, with the batch that its recipe says."""

    name: str
    config: PretrainedConfig
    batch_size: int = 1
    length: int = 1024
    longest_edge: int | None = None
    do_image_splitting: bool = True
    gradient_checkpointing: bool = False
    dtype: str = "float32"
    frozen: tuple[str, ...] = ()


def find_target(name: str) -> Target:
    """A preset's name, a recipe's path, or the folder of a checkpoint of ours.

    Raises:
        RecipeError: when it is none of them.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return target_of_recipe(path)
    if name in PRESETS:
        config = preset_config(name)
        # As SmolVLM2 cuts its pictures: up to four tiles on the longer side, 1536 pixels with the large one.
        edge = 4 * config.image_side if isinstance(config, SmolHFConfig) else None
        return Target(name, config, longest_edge=edge)
    if (path / "config.json").is_file():
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in (SmolHFConfig.model_type, SmolHFTextConfig.model_type):
            raise RecipeError(f"{name} is a {config.model_type} model: convert it first (smol-hf convert)")
        return Target(name, config)
    raise RecipeError(
        f"{name} is no preset, no recipe (.yaml) and no folder of a checkpoint{nearest(name, list(PRESETS))}"
    )


def target_of_recipe(path: Path) -> Target:
    _, model_arguments, data_arguments, arguments = load_arguments(["--config", str(path), "--output_dir", "unused"])
    conversations = itertools.islice(load_conversations(data_arguments, arguments.seed), SAMPLED)
    usable = [each for each in conversations if isinstance(each, Conversation)]
    model, processor = build_model_and_processor(model_arguments, usable)
    return Target(
        str(path),
        model.config,
        batch_size=arguments.per_device_train_batch_size,
        length=data_arguments.context_length or 1024,
        longest_edge=processor.longest_edge,
        do_image_splitting=processor.do_image_splitting,
        gradient_checkpointing=arguments.gradient_checkpointing,
        dtype=model_arguments.dtype,
        frozen=tuple(part for part, rate in arguments.part_learning_rates().items() if rate == 0),
    )


def build_on_meta(target: Target) -> PreTrainedModel:
    is_vlm = isinstance(target.config, SmolHFConfig)
    with torch.device("meta"):
        model = (SmolHFForConditionalGeneration if is_vlm else SmolHFForCausalLM)._from_config(target.config)
    model.to(getattr(torch, target.dtype))
    for part, module in parts_of(model).items():
        module.requires_grad_(part not in target.frozen)
    if target.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def parts_of(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    if isinstance(model, SmolHFForConditionalGeneration):
        return {"vision": model.vision_model, "connector": model.connector, "text": model.language_model}
    return {"text": model}


def picture_tokens(target: Target) -> dict[str, dict[str, int]]:
    """Tiles and image tokens of pictures of some sizes, `height×width`."""
    config = target.config
    tiler = ImageTiler(config.image_side, target.longest_edge or config.image_side, target.do_image_splitting)
    sizes = {}
    for height, width in PICTURES:
        rows, columns = tiler.grid(height, width)
        tiles = rows * columns + 1
        sizes[f"{height}x{width}"] = {"tiles": tiles, "tokens": tiles * config.image_seq_len}
    return sizes


def estimate(
    name: str,
    *,
    batch_size: int | None = None,
    length: int | None = None,
    tiles: int | None = None,
    labelled: int | None = None,
    dtype: str | None = None,
    optimizer: str = "adamw",
    gradient_checkpointing: bool | None = None,
    shards: int = 1,
    tflops: float | None = None,
) -> dict[str, Any]:
    """Estimate one training step of a preset, a recipe or a checkpoint.

    Args:
        batch_size, length: rows of a step and tokens of each; of a recipe, its own by default.
        tiles: tiles of the whole step; by default one in each row, where the model sees.
        labelled: trained tokens of each row; all that are not of an image by default.
        shards: processes that share weights, gradients and optimizer state (FSDP, ZeRO-3).
        tflops: useful TFLOP/s of the machine; with it `seconds_per_step` is given.

    Returns:
        `parameters`, `parameters_per_part`, `trained_parameters`, `pictures` (see `picture_tokens`), `flops`
        (`per_step`, `per_tile`, `per_token`; forward and backward), `memory` in bytes (`weights`, `gradients`,
        `optimizer`, `activations` and what else is alive at the peak, `peak`) of one process.

    Raises:
        RecipeError: for a target that is none, or values that do not fit.
    """
    target, shape = resolve(name, batch_size, length, tiles, labelled, dtype, optimizer, gradient_checkpointing)
    model = build_on_meta(target)
    counts = {part: sum(x.numel() for x in module.parameters()) for part, module in parts_of(model).items()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trained)
    traced = trace(model, shape, OPTIMIZERS[optimizer])
    states = traced["after_step"] - traced["weights"]
    shared = traced["weights"] + gradients + states
    result: dict[str, Any] = {
        "target": name,
        "parameters": sum(counts.values()),
        "parameters_per_part": counts,
        "trained_parameters": sum(weight.numel() for weight in trained),
        "step": {"rows": shape.rows, "length": shape.length, "tiles": shape.tiles, "labelled": shape.labelled},
        "flops": flops(target, shape),
        "memory": {
            "weights": traced["weights"] // shards,
            "gradients": gradients // shards,
            "optimizer": states // shards,
            "activations": max(traced["peak"] - shared, 0),
            "peak": traced["peak"] - shared + shared // shards,
        },
    }
    if isinstance(target.config, SmolHFConfig):
        result["pictures"] = picture_tokens(target)
    if tflops is not None:
        result["seconds_per_step"] = result["flops"]["per_step"] / (tflops * 1e12)
    return result


def resolve(
    name: str,
    batch_size: int | None,
    length: int | None,
    tiles: int | None,
    labelled: int | None,
    dtype: str | None,
    optimizer: str,
    gradient_checkpointing: bool | None,
) -> tuple[Target, StepShape]:
    """The target with what was asked for in place of its own values, and its step. Raises RecipeError."""
    asked = {
        "batch_size": batch_size, "length": length, "dtype": dtype, "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip
    for key in ("batch_size", "length"):
        if asked[key] is not None and asked[key] < 1 + (key == "length"):
            raise RecipeError(f"{key} is {asked[key]}: too few")
    target = replace(find_target(name), **{key: value for key, value in asked.items() if value is not None})
    if target.dtype not in ("float32", "bfloat16", "float16") or optimizer not in OPTIMIZERS:
        raise RecipeError("dtype is float32, bfloat16 or float16; optimizer is " + " or ".join(OPTIMIZERS))
    positions = getattr(target.config.get_text_config(), "max_position_embeddings", target.length)
    target = replace(target, length=min(target.length, positions)) if length is None else target
    if target.length > positions:
        raise RecipeError(f"length {target.length} is more than the {positions} positions of {name}")
    return target, step_shape(target, tiles, labelled)


def step_shape(target: Target, tiles: int | None, labelled: int | None) -> StepShape:
    if not isinstance(target.config, SmolHFConfig):
        if tiles:
            raise RecipeError(f"{target.name} sees no images: --tiles does not apply")
        return StepShape(target.batch_size, target.length, 0, labelled or target.length - 1)
    tiles = target.batch_size if tiles is None else tiles
    places = tiles * target.config.image_seq_len
    if places > target.batch_size * target.length:
        raise RecipeError(
            f"{tiles} tiles of {target.config.image_seq_len} tokens do not fit {target.batch_size} rows of "
            f"{target.length}: give fewer --tiles or a larger --length"
        )
    text = target.length - -(-places // target.batch_size)
    return StepShape(target.batch_size, target.length, tiles, max(labelled or text - 1, 1))


def flops(target: Target, shape: StepShape) -> dict[str, float]:
    """Of the step, and what one tile and one token of it cost: the same step without tiles tells them apart."""
    per_step = without_tiles = count_flops(build_on_meta(target), shape)
    found: dict[str, float] = {"per_step": per_step}
    if shape.tiles:
        without_tiles = count_flops(build_on_meta(target), replace(shape, tiles=0))
        found["per_tile"] = (per_step - without_tiles) / shape.tiles
    return {**found, "per_token": without_tiles / (shape.rows * shape.length)}
