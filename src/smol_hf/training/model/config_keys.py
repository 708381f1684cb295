"""Checks of the keys of `vision_config` and `text_config`: transformers accepts misspelt keys."""

from __future__ import annotations

import inspect

from transformers import CONFIG_MAPPING, PretrainedConfig

from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.support.formatting import nearest
from smol_hf.training.recipe.values import RecipeError


def check_keys(name: str, values: dict | None, model_type: str) -> None:
    """Raise RecipeError for a key that the configuration does not have, or text as the value of a number.

    Args:
        model_type: of values without `model_type`.
    """
    values = {"model_type": model_type, **(values or {})}
    config_class = config_class_of(name, values["model_type"])
    defaults = config_class().to_dict()
    known = {
        *defaults,
        *inspect.signature(config_class.__init__).parameters,
        *(config_class.attribute_map or {}),
        "rope_theta",
        "vision_use_head",
    }
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{name}: unknown key {key!r}{nearest(key, sorted(known))}")
        default = defaults.get(key)
        if isinstance(value, str) and isinstance(default, (int, float)):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise RecipeError(f"{name}.{key} is {value!r}: it must be {kind}")


def config_class_of(name: str, model_type: str) -> type[PretrainedConfig]:
    """Return the configuration class of a model_type. Raises RecipeError for an unknown one."""
    if model_type == SmolHFTextConfig.model_type:
        return SmolHFTextConfig
    if model_type not in CONFIG_MAPPING:
        raise RecipeError(f"{name}: unknown model_type {model_type!r}{nearest(model_type, list(CONFIG_MAPPING))}")
    return CONFIG_MAPPING[model_type]
