"""Llama (SmolLM, SmolLM2) and SmolLM3: the tensors have our names, only the configuration differs."""

from __future__ import annotations

from transformers import LlamaConfig, SmolLM3Config

from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming, refuse_other_values, without_tied_head
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

NAMES = Renaming([("model.", "model."), ("lm_head.", "lm_head.")], ignored=[r"\.rotary_emb\.inv_freq$"])
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "attention_bias", "mlp_bias",
    "attention_dropout", "initializer_range", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


def read_llama(config: dict) -> SmolHFTextConfig:
    """Read Llama's configuration. Raise ConversionError for scaled rotary positions (Llama 3.1)."""
    return _read(LlamaConfig.from_dict(config), "llama")


def read_smollm3(config: dict) -> SmolHFTextConfig:
    """Read SmolLM3's configuration. Raise ConversionError for sliding windows."""
    native = SmolLM3Config.from_dict(config)
    refuse_other_values(native, {"use_sliding_window": False}, "our decoder")
    return _read(native, "smollm3", no_rope_layers=native.no_rope_layers)


def _read(native, name: str, **more) -> SmolHFTextConfig:
    rope = dict(native.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        raise ConversionError(f"{name}: rotary positions of type {rope['rope_type']!r} are not supported")
    rope.pop("partial_rotary_factor", None)
    return SmolHFTextConfig(
        **{key: getattr(native, key) for key in SHARED},
        head_dim=getattr(native, "head_dim", None),
        norm_eps=native.rms_norm_eps,
        rope_parameters=rope,
        **more,
    )


def write_llama(config: SmolHFTextConfig) -> LlamaConfig:
    """Write Llama's configuration. Raise ConversionError, naming the key, if Llama cannot represent the decoder."""
    refuse_other_than_llama(config, "LlamaForCausalLM")
    if 0 in config.no_rope_layers:
        raise ConversionError("no_rope_layers: LlamaForCausalLM has rotary positions in every layer; use --to smollm3")
    return LlamaConfig(**_written(config), head_dim=config.head_dim)


def write_smollm3(config: SmolHFTextConfig) -> SmolLM3Config:
    """Write SmolLM3's configuration. Raise ConversionError, naming the key, if it cannot represent the decoder."""
    refuse_other_than_llama(config, "SmolLM3ForCausalLM")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raise ConversionError("head_dim: SmolLM3ForCausalLM needs hidden_size / num_attention_heads")
    return SmolLM3Config(**_written(config), no_rope_layers=config.no_rope_layers, use_sliding_window=False)


def _written(config: SmolHFTextConfig) -> dict:
    return {
        **{key: getattr(config, key) for key in SHARED},
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": dict(config.rope_parameters),
        "use_cache": True,
    }


def to_llama(tensors: dict, config: SmolHFTextConfig) -> dict:
    """Convert our tensors to Llama's and SmolLM3's, which have the same names."""
    return NAMES.to_theirs(without_tied_head(tensors, config))


def refuse_other_than_llama(config: SmolHFTextConfig, target: str) -> None:
    refuse_other_values(
        config, {"norm_type": "rms_norm", "position_embedding_type": "rotary", "gated_mlp": True}, target
    )
