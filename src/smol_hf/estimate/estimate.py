"""`smol-hf estimate`: how large a model is, what a step costs and how much memory it takes, before it is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers import PreTrainedModel

from smol_hf.auto import AutoModelForCausalLM
from smol_hf.estimate.target import OPTIMIZERS, Target, resolve
from smol_hf.estimate.traced_step import StepShape, count_flops, trace
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.model.lora import lora_config
from smol_hf.training.model.parts import PARTS, is_adapter_weight, part_modules, part_of
from smol_hf.training.model.sound_checkpoint import configuration_errors
from smol_hf.training.recipe.model_arguments import LoraArguments
from smol_hf.training.recipe.values import RecipeError

PICTURES = (
    (224, 224),
    (512, 512),
    (768, 1024),
    (1080, 1920),
    (1754, 1240),
)  # height, width; the last is A4 at 150 dpi


ADDED = ("adapters", "trained copies")


def build_on_meta(target: Target) -> PreTrainedModel:
    classes = {
        SmolHFConfig.model_type: SmolHFForConditionalGeneration._from_config,
        SmolHFTextConfig.model_type: SmolHFForCausalLM._from_config,
    }
    with torch.device("meta"), configuration_errors(target.name, target.config):
        model = classes.get(target.config.model_type, AutoModelForCausalLM.from_config)(target.config)
    model.to(getattr(torch, target.dtype))
    for part, path in part_modules(model).items():
        model.get_submodule(path).requires_grad_(part not in target.frozen)
    if target.lora is not None:
        whole = [part for part in part_modules(model) if part not in (*target.frozen, *target.lora.lora_parts)]
        lora = replace(target.lora, lora_trainable_tokens=None)  # some rows: nothing beside the rest
        model = get_peft_model(model, lora_config(lora, model, whole)).get_base_model()
    if target.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def picture_tokens(target: Target) -> dict[str, dict[str, int]]:
    """Tiles and image tokens of pictures of some sizes, `height×width`."""
    config = target.config
    sizes = {}
    for height, width in PICTURES:
        rows, columns = target.tiler.grid(height, width)
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
    lora: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Estimate one training step of a preset, a recipe or a checkpoint.

    Args:
        batch_size, length: rows of a step and tokens of each; of a recipe, its own by default.
        tiles: tiles of the whole step; by default one in each row, where the model sees.
        labelled: trained tokens of each row; all that are not of an image by default.
        shards: processes that share weights, gradients and optimizer state (FSDP, ZeRO-3).
        tflops: useful TFLOP/s of the machine; with it `seconds_per_step` is given.
        lora: keys of `LoraArguments`: only adapters are trained; by default as the recipe says.

    Returns:
        `parameters`, `parameters_per_part` (with LoRA also what it adds, which is not in the sum),
        `trained_parameters`, `pictures` (see `picture_tokens`), `flops`
        (`per_step`, `per_tile`, `per_token`; forward and backward), `memory` in bytes (`weights`, `gradients`,
        `optimizer`, `activations` and what else is alive at the peak, `peak` of a step; with LoRA also `merge`, the
        peak at the end of the run, when the adapter is merged) of one process.

    Raises:
        RecipeError: for a target that is none, or values that do not fit.
    """
    for option, number in (("shards", shards), ("tflops", tflops)):
        if number is not None and not 0 < number < math.inf:
            raise RecipeError(f"{option} is {number}: it must be a number above 0")
    target, shape = resolve(name, batch_size, length, tiles, labelled, dtype, optimizer, gradient_checkpointing, lora)
    model = build_on_meta(target)
    counts = count_by_part(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trained)
    try:
        traced = trace(model, shape, OPTIMIZERS[optimizer])
    except DataDependentOutputException as error:
        raise RecipeError(
            f"{name} cannot be traced: a part of it looks at values to choose what it computes (SigLIP2 and mixtures "
            "of experts do)"
        ) from error
    states = traced["after_step"] - traced["weights"]
    if target.lora is not None and (target.lora.load_in_4bit or target.lora.load_in_8bit):
        saved, largest = quantised_bytes(model, target.lora)
        traced = {"weights": traced["weights"] - saved, "peak": traced["peak"] - saved + largest}
    shared = traced["weights"] + gradients + states
    result: dict[str, Any] = {
        "target": name,
        "parameters": sum(number for part, number in counts.items() if part not in ADDED),
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
    if target.lora is not None:  # the base is read again in float32, beside the trained model
        result["memory"]["merge"] = shared // shards - gradients // shards + 4 * result["parameters"]
    if isinstance(target.config, SmolHFConfig):
        result["pictures"] = picture_tokens(target)
    if tflops is not None:
        result["seconds_per_step"] = result["flops"]["per_step"] / (tflops * 1e12)
    return result


def count_by_part(model: PreTrainedModel) -> dict[str, int]:
    """Weights of each part, tied ones once; what PEFT added counts as `adapters`, and the copies of modules that it
    trains whole as `trained copies`."""
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        added = "trained copies" if ".modules_to_save." in name else "adapters"
        part = added if is_adapter_weight(name) else part_of(name)
        counts[part] = counts.get(part, 0) + weight.numel()
    return {part: counts[part] for part in (*PARTS, *ADDED) if part in counts}


def quantised_bytes(model: PreTrainedModel, lora: LoraArguments) -> tuple[int, int]:
    """(bytes that four or eight bits save, bytes of the largest layer, which is unpacked when it is computed).

    With four bits, bitsandbytes keeps a float32 scale for each block of 64 weights, or one byte of it when the scales
    are quantised; with eight bits, one for each row.
    """
    head = model.get_output_embeddings()
    text = model.get_submodule(part_modules(model)["text"])
    layers = [
        layer.weight
        for path, layer in text.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head and ".lora_" not in path
    ]
    per_weight = 0.5 + (1 if lora.use_bnb_nested_quant else 4) / 64
    if lora.load_in_8bit:
        per_weight = 1 + 4 * sum(len(weight) for weight in layers) / max(sum(weight.numel() for weight in layers), 1)
    saved = sum(int(weight.numel() * (weight.element_size() - per_weight)) for weight in layers)
    if not layers:
        raise RecipeError("load_in_4bit, load_in_8bit: the language model has no linear layers to quantise")
    return saved, max(weight.numel() * weight.element_size() for weight in layers)


def flops(target: Target, shape: StepShape) -> dict[str, float]:
    """Of the step, and what one tile and one token of it cost: the same step without tiles tells them apart."""
    per_step = without_tiles = count_flops(build_on_meta(target), shape)
    found: dict[str, float] = {"per_step": per_step}
    if shape.tiles:
        without_tiles = count_flops(build_on_meta(target), replace(shape, tiles=0))
        found["per_tile"] = (per_step - without_tiles) / shape.tiles
    return {**found, "per_token": without_tiles / (shape.rows * shape.length)}
