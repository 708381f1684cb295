"""nanoGPT's `.pt` files, and plain `.pt` state dicts of Llama- or GPT-style models.

nanoGPT writes `{"model": state dict, "model_args": {...}, ...}`; others `{"model_state": state dict, ...}`.
`torch.compile` adds the prefix `_orig_mod.` to each name, DDP `module.`. All rows of a padded vocabulary are kept.
"""

from __future__ import annotations

import math
import re

import torch

from smol_hf.conversion.formats import llama
from smol_hf.conversion.formats.gpt import from_gpt2, gpt_config
from smol_hf.conversion.formats.tensor_names import ConversionError, refuse_other_layouts, without_tied_head
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

# (pattern of a tensor name, family that has it, advice)
OTHER_FAMILIES = (
    (
        r"^transformer\.h\.\d+\.attn\.c_q\.",
        "nanochat",
        "its layers (squared ReLU, normalised queries) are not those of our decoder; transformers has them as "
        "NanoChatForCausalLM",
    ),
    (
        r"^transformer\.h\.\d+\.(attn\.(attn|qkv)|norm_1)\.",
        "LitGPT",
        "run `litgpt convert_from_litgpt FOLDER OUT` first; a Llama-style result can be converted",
    ),
    (
        r"^layers\.\d+\.attention\.wq\.",
        "Meta's Llama release",
        "convert it with transformers' convert_llama_weights_to_hf.py first",
    ),
    (r"^layers\.\d+\.attn\.q_proj\.", "torchtune", "save it with torchtune's FullModelHFCheckpointer first"),
    (
        r"^gpt_neox\.layers\.\d+\.attention\.query_key_value\.",
        "GPT-NeoX",
        "our decoder does not compute it; smol-hf compose takes its folder as a language model of transformers",
    ),
)
WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")


def read_pt(
    content: dict, *, num_attention_heads: int | None = None, rope_theta: float | None = None
) -> tuple[SmolHFTextConfig, dict]:
    """Convert the content of a `.pt` file to our configuration and tensors.

    Args:
        num_attention_heads: required if the file does not contain it; no tensor shows it.
        rope_theta: of a Llama-style state dict, 10,000 by default; no tensor shows it.
    """
    tensors = next((content[key] for key in ("model", "model_state", "state_dict") if key in content), content)
    are_tensors = isinstance(tensors, dict) and all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in tensors.items()
    )
    if not tensors or not are_tensors:
        raise ConversionError("no model found: expected a state dict under 'model', 'model_state' or 'state_dict'")
    tensors = without_wrappers(tensors)
    refuse_other_layouts(tensors)
    sizes = next((content[key] for key in ("model_args", "config") if isinstance(content.get(key), dict)), {})
    if rope_theta is not None and not 0 < rope_theta < math.inf:
        raise ConversionError(f"--rope-theta is {rope_theta}: it must be a number above 0")
    if sizes.get("rope_scaling"):
        raise ConversionError("rope_scaling: scaled rotary positions are unsupported in .pt files")
    if any(".attn.c_attn." in name for name in tensors):
        if rope_theta is not None:
            raise ConversionError("--rope-theta: this model's positions are learned, not rotary")
        config = nanogpt_config(tensors, sizes, num_attention_heads)
        return config, without_tied_head(from_gpt2(tensors), config)
    if any(".self_attn.q_proj." in name for name in tensors):
        return llama_style(tensors, sizes, num_attention_heads, rope_theta)
    for pattern, family, advice in OTHER_FAMILIES:
        if found := next((name for name in tensors if re.search(pattern, name)), None):
            raise ConversionError(f"these are tensors of {family} ({found}), which cannot be converted: {advice}")
    raise ConversionError(
        f"unknown tensors, first {next(iter(tensors))}; supported are nanoGPT's (transformer.h.0.attn.c_attn.weight) "
        "and Llama-style ones (model.layers.0.self_attn.q_proj.weight)"
    )


def without_wrappers(tensors: dict) -> dict:
    """Remove the prefixes of `torch.compile` and DDP. Raises ConversionError if a name then appears twice."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        short = WRAPPERS.sub("", name)
        if short in plain:
            raise ConversionError(
                f"the file has {short} twice, with and without the prefix of a wrapper: keep one model"
            )
        plain[short] = tensor
    return plain


def matrix(tensors: dict, name: str) -> torch.Tensor:
    """Return a matrix that tells sizes. Raises ConversionError if it is missing or not a matrix."""
    if name not in tensors:
        raise ConversionError(f"the tensor {name} is missing; the first of {len(tensors)} is {next(iter(tensors))}")
    if tensors[name].dim() != 2:
        raise ConversionError(f"{name} has the shape {tuple(tensors[name].shape)}: it must be a matrix")
    return tensors[name]


def heads(sizes: dict, given: int | None) -> int:
    said = next((sizes[key] for key in ("n_head", "num_attention_heads", "num_heads") if sizes.get(key)), None)
    if said is not None and given not in (None, said):
        raise ConversionError(f"--num-attention-heads is {given}, but the file has {said}")
    number = given if said is None else said
    if number is None:
        raise ConversionError("the number of attention heads is not in the file: give --num-attention-heads")
    if type(number) is not int or number < 1:
        raise ConversionError(f"the number of attention heads is {number!r}: it must be a whole number above 0")
    return number


def layers(tensors: dict, pattern: str) -> int:
    return 1 + max(int(match.group(1)) for match in (re.search(pattern, name) for name in tensors) if match)


def is_tied(tensors: dict, head: str, embeddings: str) -> bool:
    return head not in tensors or torch.equal(tensors[head], tensors[embeddings])


def nanogpt_config(tensors: dict, sizes: dict, num_attention_heads: int | None) -> SmolHFTextConfig:
    """Configure nanoGPT: exact GELU (not GPT-2's approximation), ε 1e-5, optional biases, tied head."""
    embeddings, positions = (matrix(tensors, f"transformer.{name}.weight") for name in ("wte", "wpe"))
    shapes = {
        "vocab_size": embeddings.shape[0],
        "n_embd": embeddings.shape[1],
        "block_size": positions.shape[0],
        "n_layer": layers(tensors, r"transformer\.h\.(\d+)\."),
    }
    for name, found in shapes.items():
        if sizes.get(name, found) != found:
            raise ConversionError(f"model_args has {name} {sizes[name]}, but the tensors have {found}")
    inner = matrix(tensors, "transformer.h.0.mlp.c_fc.weight").shape
    return gpt_config(
        bias="transformer.h.0.attn.c_attn.bias" in tensors,
        vocab_size=shapes["vocab_size"],
        hidden_size=shapes["n_embd"],
        intermediate_size=max(inner) if shapes["n_embd"] in inner else inner[0],
        num_hidden_layers=shapes["n_layer"],
        num_attention_heads=heads(sizes, num_attention_heads),
        max_position_embeddings=shapes["block_size"],
        hidden_act="gelu",
        tie_word_embeddings=is_tied(tensors, "lm_head.weight", "transformer.wte.weight"),
    )


def llama_style(tensors: dict, sizes: dict, num_attention_heads: int | None, rope_theta: float | None):
    first = "model.layers.0."
    if f"{first}self_attn.q_proj.weight" not in tensors:
        tensors = {f"model.{name}" if not name.startswith("lm_head.") else name: x for name, x in tensors.items()}
    number = heads(sizes, num_attention_heads)
    query, key = (matrix(tensors, f"{first}self_attn.{letter}_proj.weight") for letter in "qk")
    if query.shape[0] % number:
        raise ConversionError(f"{query.shape[0]} query channels do not split into {number} attention heads")
    head_dim = query.shape[0] // number
    config = SmolHFTextConfig(
        vocab_size=matrix(tensors, "model.embed_tokens.weight").shape[0],
        hidden_size=query.shape[1],
        intermediate_size=matrix(tensors, f"{first}mlp.up_proj.weight").shape[0],
        num_hidden_layers=layers(tensors, r"layers\.(\d+)\."),
        num_attention_heads=number,
        num_key_value_heads=key.shape[0] // head_dim,
        head_dim=head_dim,
        attention_bias=f"{first}self_attn.q_proj.bias" in tensors,
        mlp_bias=f"{first}mlp.up_proj.bias" in tensors,
        max_position_embeddings=sizes.get("max_position_embeddings", 2048),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta or sizes.get("rope_theta", 10000.0)},
        norm_eps=sizes.get("rms_norm_eps", 1e-5),
        tie_word_embeddings=is_tied(tensors, "lm_head.weight", "model.embed_tokens.weight"),
    )
    return config, without_tied_head(llama.NAMES.to_ours(tensors), config)
