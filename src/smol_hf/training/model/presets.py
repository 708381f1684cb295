"""Published models by name: their configurations, for random weights, estimates and recipes. Nothing is downloaded.

Sources: the `config.json` of HuggingFaceTB/SmolLM-*, SmolLM2-*, SmolLM3-3B, SmolVLM2-* on the Hub; nanoVLM's
`models/config.py` (github.com/huggingface/nanoVLM; 222M is its first version); llava-hf/llava-1.5-7b-hf for `llava-*`.
"""

from __future__ import annotations

import copy
from typing import Any

from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.support.formatting import nearest
from smol_hf.training.recipe.values import RecipeError


def llama_style(hidden, intermediate, layers, heads, kv_heads, theta, positions, vocabulary=49152, **more) -> dict:
    return {
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions, "rope_parameters": {"rope_type": "default", "rope_theta": theta}, **more,
    }  # fmt: skip


def encoder(model_type, hidden, intermediate, layers, heads, image_size, patch_size, **more) -> dict:
    return {
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": image_size,
        "patch_size": patch_size, **more,
    }  # fmt: skip


def small(theta: float, positions: int, **more) -> dict:
    return llama_style(576, 1536, 30, 9, 3, theta, positions, **more)


def medium(theta: float, positions: int, **more) -> dict:
    return llama_style(960, 2560, 32, 15, 5, theta, positions, **more)


def large(theta: float, positions: int, **more) -> dict:
    return llama_style(2048, 8192, 24, 32, 32, theta, positions, **more)


SIGLIP_BASE_512 = encoder("siglip_vision_model", 768, 3072, 12, 12, 512, 16)
SIGLIP_BASE_224 = {**SIGLIP_BASE_512, "image_size": 224}
SIGLIP_SO400M_384 = encoder("siglip_vision_model", 1152, 4304, 27, 16, 384, 14)
CLIP_LARGE_336 = encoder("clip_vision_model", 1024, 4096, 24, 16, 336, 14)
TINY_SIGLIP = encoder("siglip_vision_model", 64, 128, 2, 2, 64, 8)

TEXT = {
    "smollm-135m": small(10000.0, 2048),
    "smollm-360m": medium(10000.0, 2048),
    "smollm-1.7b": large(10000.0, 2048),
    "smollm2-135m": small(100000.0, 8192),
    "smollm2-360m": medium(100000.0, 8192),
    "smollm2-1.7b": large(130000.0, 8192),
    "smollm3-3b": llama_style(
        2048, 11008, 36, 16, 4, 5000000.0, 65536, 128256, norm_eps=1e-6, no_rope_layers=[1, 1, 1, 0] * 9
    ),
    # GPT style with biases only in the norms.
    "gpt-93m": {
        "vocab_size": 32768, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 2048, "position_embedding_type": "learned",
        "norm_type": "layer_norm", "gated_mlp": False, "hidden_act": "gelu",
    },
    "smollm-tiny": llama_style(128, 384, 4, 4, 2, 10000.0, 1024, 1024),
    "tiny-text": llama_style(64, 128, 2, 4, 2, 10000.0, 512, 512),
}  # fmt: skip

# SmolVLM has an untied head. Models without `longest_edge` see an image as one tile.
SMOLVLM_TEXT = {"vocabulary": 49280, "tie_word_embeddings": False}
VISION = {
    "smolvlm2-256m": {
        "vision_config": SIGLIP_BASE_512, "text_config": small(100000.0, 8192, **SMOLVLM_TEXT), "scale_factor": 4,
        "longest_edge": 2048,
    },
    "smolvlm2-500m": {
        "vision_config": SIGLIP_BASE_512, "text_config": medium(100000.0, 8192, **SMOLVLM_TEXT), "scale_factor": 4,
        "longest_edge": 2048,
    },
    "smolvlm2-2.2b": {
        "vision_config": SIGLIP_SO400M_384, "text_config": large(273768.0, 8192, **SMOLVLM_TEXT), "scale_factor": 3,
        "longest_edge": 1536,
    },
    "nanovlm-222m": {
        "vision_config": SIGLIP_BASE_224, "text_config": small(100000.0, 8192), "scale_factor": 2, "image_token_id": 4,
        "image_mean": [0.0] * 3, "image_std": [1.0] * 3,
    },
    "nanovlm-450m": {
        "vision_config": SIGLIP_BASE_512, "text_config": medium(100000.0, 8192, vocabulary=49218), "scale_factor": 4,
        "longest_edge": 2048, "image_token_id": 49152, "image_mean": [0.0] * 3, "image_std": [1.0] * 3,
    },
    "llava-smollm2-1.7b": {
        "vision_config": CLIP_LARGE_336, "text_config": large(130000.0, 8192, vocabulary=49280),
        "connector_type": "mlp", "vision_feature_layer": -2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "tiny-vlm": {
        "vision_config": TINY_SIGLIP, "text_config": llama_style(64, 128, 2, 4, 2, 10000.0, 512, 512),
        "scale_factor": 2, "image_token_id": 4,
    },
}  # fmt: skip

PRESETS = (*TEXT, *VISION)


def preset_settings(name: str) -> dict[str, Any]:
    """Return the keys of a published model. Raises RecipeError for an unknown name."""
    if name not in PRESETS:
        raise RecipeError(f"unknown preset {name!r}{nearest(name, list(PRESETS))}")
    return copy.deepcopy({"text_config": TEXT[name]} if name in TEXT else VISION[name])


def preset_config(name: str) -> SmolHFConfig | SmolHFTextConfig:
    """Return the configuration of a published model. Raises RecipeError for an unknown name."""
    settings = preset_settings(name)
    settings.pop("longest_edge", None)  # of its processor
    settings["text_config"] = SmolHFTextConfig(**settings["text_config"])
    return settings["text_config"] if name in TEXT else SmolHFConfig(**settings)
