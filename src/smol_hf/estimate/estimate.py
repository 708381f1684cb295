"""`smol-hf estimate`: parameters of a model, and FLOPs, memory and time of a training step.

`python -m smol_hf.estimate.estimate '{"target": …}'` runs two real steps for `measure`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers import PreTrainedModel

from smol_hf.auto import AutoModelForCausalLM
from smol_hf.estimate.target import Target, resolve
from smol_hf.estimate.traced_step import StepShape, build_optimizer, trace, training_step
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.model.lora import lora_config
from smol_hf.training.model.parts import PARTS, is_adapter_weight, part_modules, part_of
from smol_hf.training.model.sound_checkpoint import configuration_errors
from smol_hf.training.recipe.model_arguments import LoraArguments
from smol_hf.training.recipe.values import RecipeError

IMAGE_SIZES = ((224, 224), (512, 512), (768, 1024), (1080, 1920), (1754, 1240))  # height, width; the last: A4, 150 dpi
ADDED = ("adapters", "trained copies")

# By default glibc also puts large blocks into its heap, whose fragmentation adds up to 25 % to the memory of the
# tensors. With a fixed threshold, each large block comes from the system and is returned to it.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def build_on_meta(target: Target) -> PreTrainedModel:
    classes = {
        SmolHFConfig.model_type: SmolHFForConditionalGeneration._from_config,
        SmolHFTextConfig.model_type: SmolHFForCausalLM._from_config,
    }
    with torch.device("meta"), configuration_errors(target.name, target.config):
        build = classes.get(target.config.model_type, AutoModelForCausalLM.from_config)
        model: Any = build(target.config)
    model.to(getattr(torch, target.dtype))
    for part, path in part_modules(model).items():
        model.get_submodule(path).requires_grad_(part not in target.frozen)
    if target.lora is not None:
        whole = [part for part in part_modules(model) if part not in (*target.frozen, *target.lora.lora_parts)]
        lora = replace(target.lora, lora_trainable_tokens=None)  # a few rows, which are negligible
        model = get_peft_model(model, lora_config(lora, model, whole)).get_base_model()
    if target.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def image_tokens(target: Target) -> dict[str, dict[str, int]]:
    """Return the number of tiles and image tokens for some image sizes, `height×width`."""
    sizes = {}
    for height, width in IMAGE_SIZES:
        rows, columns = target.tiler.grid(height, width)
        tiles = rows * columns + 1
        sizes[f"{height}x{width}"] = {"tiles": tiles, "tokens": tiles * target.config.image_seq_len}
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
        batch_size, length: rows per step and tokens per row (default: the recipe's).
        tiles: image tiles per step (default: one per row of a vision-language model).
        labelled: tokens per row with labels (default: all text tokens).
        shards: number of processes that share weights, gradients and optimizer state (FSDP, ZeRO-3).
        tflops: achieved TFLOP/s of the machine, for `seconds_per_step`.
        lora: keys of `LoraArguments`, to train only adapters (default: the recipe's).

    Returns:
        `parameters`, `parameters_per_part` (also the adapters, which are not in the sum), `trained_parameters`,
        `images` (see `image_tokens`), `enlarged_to` (the longer side of each image, in pixels), `flops` (`per_step`,
        `per_tile`, `per_token`; forward and backward), and `memory` of one process in bytes: `weights`, `gradients`,
        `optimizer`, `activations` (and other tensors at the peak), `peak` of a step, and with adapters `merge`, the
        peak of merging them after the run.

    Raises:
        RecipeError: for an unknown target, or values that do not fit it.
    """
    for option, number in (("shards", shards), ("tflops", tflops)):
        if number is not None and not 0 < number < math.inf:
            raise RecipeError(f"{option} is {number}: it must be above 0")
    target, shape = resolve(name, batch_size, length, tiles, labelled, dtype, optimizer, gradient_checkpointing, lora)
    return estimate_step(target, shape, optimizer, shards, tflops)


def estimate_step(
    target: Target, shape: StepShape, optimizer: str = "adamw", shards: int = 1, tflops: float | None = None
) -> dict[str, Any]:
    """Estimate one training step of a resolved target, see `estimate`."""
    name, model = target.name, build_on_meta(target)
    counts = count_by_part(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trained)
    try:
        traced = trace(model, shape, optimizer)
    except DataDependentOutputException as error:
        raise RecipeError(
            f"{name} cannot be traced: its computation depends on values of tensors, as in SigLIP2 and mixtures of "
            "experts. Estimate a model of the same sizes without them"
        ) from error
    states = traced["states"]
    if target.lora is not None and (target.lora.load_in_4bit or target.lora.load_in_8bit):
        saved, largest = quantised_bytes(model, target.lora)
        traced |= {"weights": traced["weights"] - saved, "peak": traced["peak"] - saved + largest}
    shared = traced["weights"] + gradients + states
    result: dict[str, Any] = {
        "target": name,
        "parameters": sum(number for part, number in counts.items() if part not in ADDED),
        "parameters_per_part": counts,
        "trained_parameters": sum(weight.numel() for weight in trained),
        "step": {"rows": shape.rows, "length": shape.length, "tiles": shape.tiles, "labelled": shape.labelled},
        "flops": flops(traced, shape),
        "memory": {
            "weights": traced["weights"] // shards,
            "gradients": gradients // shards,
            "optimizer": states // shards,
            "activations": max(traced["peak"] - shared, 0),
            "peak": traced["peak"] - shared + shared // shards,
        },
    }
    if target.lora is not None:  # merging loads the base again, in float32
        result["memory"]["merge"] = shared // shards - gradients // shards + 4 * result["parameters"]
    if isinstance(target.config, SmolHFConfig):
        result["images"] = image_tokens(target)
        if target.tiler.do_image_splitting and target.tiler.enlarge_images:
            result["enlarged_to"] = target.tiler.longest_edge
    if tflops is not None:
        result["seconds_per_step"] = result["flops"]["per_step"] / (tflops * 1e12)
    return result


def count_by_part(model: PreTrainedModel) -> dict[str, int]:
    """Count the weights of each part, tied ones once.

    Weights that PEFT added are `adapters`; copies of modules that it trains in full are `trained copies`.
    """
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        added = "trained copies" if ".modules_to_save." in name else "adapters"
        part = added if is_adapter_weight(name) else part_of(name)
        counts[part] = counts.get(part, 0) + weight.numel()
    return {part: counts[part] for part in (*PARTS, *ADDED) if part in counts}


def quantised_bytes(model: PreTrainedModel, lora: LoraArguments) -> tuple[int, int]:
    """Return the bytes that quantisation saves, and those of the largest layer, which is unpacked for its computation.

    With 4 bits, bitsandbytes keeps a float32 scale for each block of 64 weights (1 byte if the scales are quantised);
    with 8 bits, one scale per row.
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


def flops(traced: dict[str, int], shape: StepShape) -> dict[str, float]:
    """Return the FLOPs of a step, of a tile and of a token. A step without tiles separates the two."""
    per_step, without_tiles = traced["flops"], traced["flops_without_tiles"]
    per_tile = {"per_tile": (per_step - without_tiles) / shape.tiles} if shape.tiles else {}
    return {"per_step": per_step, **per_tile, "per_token": without_tiles / (shape.rows * shape.length)}


def measure(arguments: dict) -> dict[str, float]:
    """Run this module with the arguments of `estimate`. Raises RuntimeError if the process fails."""
    command = [sys.executable, "-m", "smol_hf.estimate.estimate", json.dumps(arguments)]
    finished = subprocess.run(command, env={**os.environ, **MALLOC}, capture_output=True, text=True)
    if finished.returncode:
        reason = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        raise RuntimeError(f"the measured step failed: {reason[0]}")
    return json.loads(finished.stdout.splitlines()[-1])


def status(key: str) -> int:
    """Read a size of this process in bytes: VmRSS is the current memory, VmHWM the peak."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def warm_up() -> None:
    """Load the libraries that the first step of a process loads, which are not part of the model's memory."""
    layer = torch.nn.Linear(64, 64)
    layer(torch.zeros(8, 64)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()


def set_to_zero(model: PreTrainedModel) -> None:
    """Write each tensor. No variable may keep one of them alive, or the measurement counts it."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()


def main(arguments: dict[str, Any]) -> dict[str, float]:
    target, shape = resolve(**arguments)
    warm_up()
    build_on_meta(target)  # loads libraries, without memory for the model
    before = status("VmRSS")
    model = build_on_meta(target)
    model.to_empty(device="cpu")
    model.tie_weights()  # before a page of the second copy is written
    set_to_zero(model)
    model.train()
    optimizer = build_optimizer(arguments["optimizer"], model)
    for _ in range(2):  # the first one creates the state
        started = time.perf_counter()
        training_step(model, shape)
        optimizer.step()
        optimizer.zero_grad()
    return {"peak": status("VmHWM") - before, "seconds_per_step": time.perf_counter() - started}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
