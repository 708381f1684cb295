"""GPT-2 of transformers and nanoGPT: learned positions, and queries, keys and values in one matrix."""

from __future__ import annotations

import re

import torch
from transformers import GPT2Config

from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming, settle_head
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
    ignored=[r"\.attn\.(masked_)?bias$"],  # the causal mask, which older files carry as a tensor
)
MATRIX = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
FUSED = re.compile(r"\.attn\.c_attn\.(weight|bias)$")


def read_gpt2(config: dict) -> SmolHFTextConfig:
    """Raises ConversionError for GPT-2's rare variants, which our decoder does not compute."""
    native = GPT2Config.from_dict(config)
    for name, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if getattr(native, name) != wanted:
            raise ConversionError(f"gpt2: {name}={getattr(native, name)} is not supported")
    return gpt_config(
        vocab_size=native.vocab_size,
        hidden_size=native.n_embd,
        intermediate_size=native.n_inner or 4 * native.n_embd,
        num_hidden_layers=native.n_layer,
        num_attention_heads=native.n_head,
        max_position_embeddings=native.n_positions,
        hidden_act=native.activation_function,
        norm_eps=native.layer_norm_epsilon,
        initializer_range=native.initializer_range,
        tie_word_embeddings=native.tie_word_embeddings,
        bos_token_id=native.bos_token_id,
        eos_token_id=native.eos_token_id,
        pad_token_id=native.pad_token_id,
    )


def gpt_config(*, bias: bool = True, **fields) -> SmolHFTextConfig:
    """Our decoder in GPT style, with the biases of its matrices and norms or without."""
    return SmolHFTextConfig(
        norm_type="layer_norm", norm_bias=bias, position_embedding_type="learned", gated_mlp=False,
        attention_bias=bias, mlp_bias=bias, **fields,
    )  # fmt: skip


def write_gpt2(config: SmolHFTextConfig) -> GPT2Config:
    """Raises ConversionError, naming the field, for a decoder that GPT-2's class cannot be."""
    for name, wanted in (("norm_type", "layer_norm"), ("position_embedding_type", "learned"), ("gated_mlp", False)):
        if getattr(config, name) != wanted:
            raise ConversionError(
                f"text_config.{name} is {getattr(config, name)!r}: GPT2LMHeadModel has only {wanted!r}"
            )
    if config.num_key_value_heads != config.num_attention_heads:
        raise ConversionError("num_key_value_heads: GPT2LMHeadModel has one for each head, no groups")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raise ConversionError("head_dim: GPT2LMHeadModel needs hidden_size / num_attention_heads")
    return GPT2Config(
        vocab_size=config.vocab_size, n_embd=config.hidden_size, n_inner=config.intermediate_size,
        n_layer=config.num_hidden_layers, n_head=config.num_attention_heads,
        n_positions=config.max_position_embeddings, activation_function=config.hidden_act,
        layer_norm_epsilon=config.norm_eps, initializer_range=config.initializer_range,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=config.attention_dropout,
        tie_word_embeddings=config.tie_word_embeddings, bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id,
    )  # fmt: skip


def from_gpt2(tensors: dict, config: SmolHFTextConfig) -> dict:
    """GPT-2's tensors → ours. Matrices stored (in, out), as transformers' Conv1D does, are transposed; those of
    nanoGPT, (out, in), are not: the fused matrix, three times as wide one way as the other, tells which."""
    split = {}
    for name, tensor in tensors.items():
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"  # GPT2Model, without its head
        if MATRIX.search(name) and _is_conv1d(tensors):
            tensor = tensor.t()
        if FUSED.search(name):
            parts = tensor.chunk(3)
            split |= {name.replace("c_attn", letter): part for letter, part in zip("qkv", parts)}
        else:
            split[name] = tensor
    ours = NAMES.to_ours(split)
    settle_head(ours, config)
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def _is_conv1d(tensors: dict) -> bool:
    for name, tensor in tensors.items():
        if name.endswith("attn.c_attn.weight"):
            return tensor.shape[1] == 3 * tensor.shape[0]
    return False


def to_gpt2(tensors: dict, config: SmolHFTextConfig) -> dict:
    """Our tensors → GPT-2's. Biases that a model does not have become zeros, which change nothing."""
    split = NAMES.to_theirs(_with_biases(tensors))
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


def _with_biases(tensors: dict) -> dict:
    complete = dict(tensors)
    for name, tensor in tensors.items():
        bias = name.removesuffix("weight") + "bias"
        if name.endswith(".weight") and ("model.layers." in name or name == "model.norm.weight"):
            complete.setdefault(bias, tensor.new_zeros(tensor.shape[0]))
    return complete
