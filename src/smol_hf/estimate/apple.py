"""`smol-hf estimate --apple`: memory on Apple silicon with MLX, from the shapes of the weights.

Activations are not part of it: they depend on the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Column, Table
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from smol_hf.estimate.estimate import build_on_meta
from smol_hf.estimate.target import resolve
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.support.formatting import counted, data_size
from smol_hf.training.model.parts import part_modules

BITS = (16, 8, 4)
GROUP = 64  # weights that share a scale and a bias of 16 bits each
CACHE_STEP = 256  # tokens by which the cache grows
LORA_RANK, LORA_LAYERS = 8, 16  # defaults of mlx-lm: the last layers of the decoder
# Copies of a trained weight: itself, its gradient, and two moments of Adam.
COPIES = 4


def apple_memory(
    name: str, *, batch_size: int | None = None, length: int | None = None, tiles: int | None = None
) -> dict[str, Any]:
    """Estimate the memory of inference and training with MLX.

    Args:
        name: preset, recipe, or folder of a checkpoint.
        batch_size, length, tiles: rows, tokens per row with the answer, and image tiles of all rows; see `estimate`.

    Returns:
        `parameters` of the native folder, `step` (`rows`, `length`, `tiles`), and sizes in bytes: `weights` (by bits),
        `cache` of keys and values, `image_features`, `inference` (by bits: their sum), `lora` (by bits) and `full`
        (16 bits) for training without activations. `lora_parameters`: those of the adapters.

    Raises:
        RecipeError: for an unknown target, or values that do not fit it.
    """
    target, shape = resolve(name, batch_size, length, tiles, None, None, "adamw", None)
    model = build_on_meta(target)
    parameters = sum(weight.numel() for weight in model.parameters()) + own_head(model)
    quantised = quantised_weights(model)
    weights = {bits: weight_bytes(parameters, quantised, bits) for bits in BITS}
    config = target.config.get_text_config()
    cache = cache_bytes(config, shape.rows, shape.length)
    features = 0
    if isinstance(target.config, SmolHFConfig):
        features = 2 * shape.tiles * target.config.image_seq_len * config.hidden_size
    adapters = lora_parameters(model)
    return {
        "target": name,
        "parameters": parameters,
        "step": {"rows": shape.rows, "length": shape.length, "tiles": shape.tiles},
        "weights": weights,
        "cache": cache,
        "image_features": features,
        "inference": {bits: size + cache + features for bits, size in weights.items()},
        "lora_parameters": adapters,
        "lora": {bits: size + 4 * COPIES * adapters for bits, size in weights.items()},  # adapters are in float32
        "full": 2 * COPIES * parameters,
    }


def own_head(model: PreTrainedModel) -> int:
    """Count the weights of the head that a native vision-language model has in addition to tied embeddings."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(model.config, SmolHFConfig) or head is None or head.weight is not embeddings.weight:
        return 0
    return head.weight.numel()


def quantised_weights(model: PreTrainedModel) -> int:
    """Count the weights that MLX quantises: matrices whose rows are complete groups, but not the image encoder's.

    mlx-vlm also leaves the connector of LLaVA's models as it is.
    """
    parts = part_modules(model)
    modules = list(model.get_submodule(parts["text"]).modules())
    if getattr(model.config, "connector_type", None) == "pixel_shuffle":
        modules += model.get_submodule(parts["connector"]).modules()
    matrices = {
        id(module.weight): module.weight
        for module in modules
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.shape[-1] % GROUP == 0
    }
    head = own_head(model) if model.config.get_text_config().hidden_size % GROUP == 0 else 0
    return sum(weight.numel() for weight in matrices.values()) + head  # tied ones once


def weight_bytes(parameters: int, quantised: int, bits: int) -> int:
    if bits == 16:
        return 2 * parameters
    return 2 * (parameters - quantised) + quantised * bits // 8 + 4 * quantised // GROUP


def cache_bytes(config: PretrainedConfig, rows: int, length: int) -> int:
    """Return the bytes of keys and values of 16 bits for this number of tokens."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    kept = -(-length // CACHE_STEP) * CACHE_STEP
    return 2 * 2 * config.num_hidden_layers * rows * kept * key_heads * head_size


def lora_parameters(model: PreTrainedModel) -> int:
    """Count the weights of adapters on each linear layer of the last decoder layers."""
    text = model.get_submodule(part_modules(model)["text"])
    (layers,) = [module for module in text.modules() if isinstance(module, nn.ModuleList)][:1]
    linear = [module for layer in layers[-LORA_LAYERS:] for module in layer.modules() if isinstance(module, nn.Linear)]
    return sum(LORA_RANK * (module.in_features + module.out_features) for module in linear)


def lines_of(facts: dict[str, Any]) -> Iterator[str | Table]:
    """Yield the sizes as lines and a table."""
    step = facts["step"]
    of_step = f"{step['rows']} × {step['length']:,} tokens"
    yield f"{facts['parameters']:,} parameters, with MLX on Apple silicon:"
    table = Table("memory", *(Column(f"{bits} bit", justify="right") for bits in BITS))
    rows = [
        ("weights", facts["weights"]),
        (f"keys and values of {of_step}", dict.fromkeys(BITS, facts["cache"])),
        (f"features of {counted(step['tiles'], 'tile')}", dict.fromkeys(BITS, facts["image_features"])),
        ("inference", facts["inference"]),
        (f"LoRA training, rank {LORA_RANK}, last {LORA_LAYERS} layers", facts["lora"]),
        ("full training", {16: facts["full"]}),
    ]
    for name, sizes in rows:
        table.add_row(name, *(f"{data_size(sizes[bits])}" if bits in sizes else "" for bits in BITS))
    yield table
    yield "activations are not included; a quantised group has 64 weights"
