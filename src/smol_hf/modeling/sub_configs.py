"""The configurations inside a vision-language model's: of its image encoder and of its language model."""

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig

from .configuration_smol_hf_text import SmolHFTextConfig

# SigLIP-B/16 at 512 pixels, the encoder of SmolVLM2-256M and -500M.
DEFAULT_VISION_CONFIG = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


def build_sub_config(value, default):
    """A configuration of transformers, or ours, from a dictionary with its `model_type` (or a configuration, as is).

    Our own type is named here because transformers' table does not know it when this file runs as remote code.
    """
    if isinstance(value, PretrainedConfig):
        return value
    value = dict(value or default)
    model_type = value.pop("model_type", default["model_type"])
    if model_type == SmolHFTextConfig.model_type:
        return SmolHFTextConfig(**value)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"transformers has no model_type {model_type!r}")
    if model_type in ("siglip_vision_model", "siglip2_vision_model"):
        value.setdefault("vision_use_head", False)  # the pooling head is never read: patches are
    config = CONFIG_MAPPING[model_type](**value)
    if transformers.__version__.startswith("4."):
        use_older_rope_names(config)
    return config


def use_older_rope_names(config):
    """transformers 5 writes `rope_parameters`; 4.57 does not know the name, and would rotate by its own default."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(f"{config.model_type} has rope_parameters for each kind of layer: it needs transformers 5")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            setattr(config, name, rope.pop(name))
    if rope.get("rope_type", "default") != "default":
        config.rope_scaling = rope
