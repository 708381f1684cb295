"""GPT-2 of transformers and nanoGPT: learned positions, and queries, keys and values in one matrix."""

from __future__ import annotations

import re

import torch
from transformers import GPT2Config

from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming, refuse_other_values
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

NAMES = Renaming(
    [
        ("transformer.wte.", "model.embed_tokens."),
        ("transformer.wpe.", "model.embed_positions."),
        ("transformer.h.{i}.ln_1.", "model.layers.{i}.input_layernorm."),
        ("transformer.h.{i}.attn.q.", "model.layers.{i}.self_attn.q_proj."),
        ("transformer.h.{i}.attn.k.", "model.layers.{i}.self_attn.k_proj."),
        ("transformer.h.{i}.attn.v.", "model.layers.{i}.self_attn.v_proj."),
        ("transformer.h.{i}.attn.c_proj.", "model.layers.{i}.self_attn.o_proj."),
        ("transformer.h.{i}.ln_2.", "model.layers.{i}.post_attention_layernorm."),
        ("transformer.h.{i}.mlp.c_fc.", "model.layers.{i}.mlp.up_proj."),
        ("transformer.h.{i}.mlp.c_proj.", "model.layers.{i}.mlp.down_proj."),
        ("transformer.ln_f.", "model.norm."),
        ("lm_head.", "lm_head."),
    ],
    ignored=[r"\.attn\.(masked_)?bias$"],  # the causal mask, a tensor in older files
)
# our key → GPT-2's
KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "tie_word_embeddings": "tie_word_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
MATRIX = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
STYLE = {"norm_type": "layer_norm", "position_embedding_type": "learned", "gated_mlp": False}
FUSED = re.compile(r"\.attn\.c_attn\.(weight|bias)$")


def read_gpt2(config: dict) -> SmolHFTextConfig:
    """Read GPT-2's configuration. Raise ConversionError for rare variants that our decoder does not compute."""
    native = GPT2Config.from_dict(config)
    plain = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    refuse_other_values(native, plain, "our decoder")
    native.n_inner = native.n_inner or 4 * native.n_embd
    return gpt_config(**{ours: getattr(native, theirs) for ours, theirs in KEYS.items()})


def gpt_config(*, bias: bool = True, **fields) -> SmolHFTextConfig:
    """Configure our decoder in GPT style. `bias`: its matrices and norms have biases."""
    return SmolHFTextConfig(**STYLE, norm_bias=bias, attention_bias=bias, mlp_bias=bias, **fields)


def write_gpt2(config: SmolHFTextConfig) -> GPT2Config:
    """Write GPT-2's configuration. Raise ConversionError, naming the key, if GPT-2 cannot represent the decoder."""
    refuse_other_values(config, STYLE, "GPT2LMHeadModel")
    if config.num_key_value_heads != config.num_attention_heads:
        raise ConversionError("num_key_value_heads: GPT2LMHeadModel does not support grouped heads")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raise ConversionError("head_dim: GPT2LMHeadModel needs hidden_size / num_attention_heads")
    keys = {theirs: getattr(config, ours) for ours, theirs in KEYS.items()}
    return GPT2Config(**keys, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=config.attention_dropout)


def from_gpt2(tensors: dict) -> dict:
    """Convert GPT-2's tensors to ours.

    transformers' Conv1D stores matrices as (in, out): they are transposed. nanoGPT stores (out, in). The fused matrix,
    with 3 × hidden outputs, shows which it is.
    """
    fused = next((tensor for name, tensor in tensors.items() if name.endswith("attn.c_attn.weight")), None)
    is_conv1d = fused is not None and fused.shape[1] == 3 * fused.shape[0]
    split = {}
    for name, tensor in tensors.items():
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"  # GPT2Model, without its head
        if is_conv1d and MATRIX.search(name):
            tensor = tensor.t()
        if FUSED.search(name):
            split |= {name.replace("c_attn", letter): part for letter, part in zip("qkv", tensor.chunk(3))}
        else:
            split[name] = tensor
    return {name: tensor.contiguous() for name, tensor in NAMES.to_ours(split).items()}


def to_gpt2(tensors: dict, config: SmolHFTextConfig) -> dict:
    """Convert our tensors to GPT-2's. A missing bias becomes zeros."""
    complete = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".weight") and ("model.layers." in name or name == "model.norm.weight"):
            complete.setdefault(name.removesuffix("weight") + "bias", tensor.new_zeros(tensor.shape[0]))
    split = NAMES.to_theirs(complete)
    theirs = {}
    for name, tensor in split.items():
        if ".attn.k." in name or ".attn.v." in name:
            continue
        if ".attn.q." in name:
            tensor = torch.cat([split[name.replace(".attn.q.", f".attn.{letter}.")] for letter in "qkv"])
            name = name.replace(".attn.q.", ".attn.c_attn.")
        theirs[name] = tensor.t().contiguous() if MATRIX.search(name) else tensor
    if config.tie_word_embeddings:
        theirs.pop("lm_head.weight", None)
    return theirs
