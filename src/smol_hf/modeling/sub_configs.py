"""The two configurations inside a vision-language model's: image encoder and language model."""

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
    """Build a configuration from a dictionary with its `model_type`; a configuration is returned as it is.

    Our own type is named here because transformers' table does not know it when this file runs as remote code.
    """
    if isinstance(value, PretrainedConfig):
        return value
    value = dict(value or default)
    model_type = value.pop("model_type", default["model_type"])
    if model_type == SmolHFTextConfig.model_type:
        return SmolHFTextConfig(**value)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"transformers {transformers.__version__} does not know the model_type {model_type!r}")
    if model_type in ("siglip_vision_model", "siglip2_vision_model"):
        value.setdefault("vision_use_head", False)  # the head pools the patches into one vector; we read the patches
    config = CONFIG_MAPPING[model_type](**value)
    if transformers.__version__.startswith("4."):
        use_older_rope_names(config)
    return config


def use_older_rope_names(config):
    """Translate `rope_parameters`, which transformers 4.57 would ignore: it would rotate by its own default."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(f"{config.model_type} has rope_parameters for each kind of layer: install transformers 5")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            setattr(config, name, rope.pop(name))
    if rope.get("rope_type", "default") != "default":
        config.rope_scaling = rope
