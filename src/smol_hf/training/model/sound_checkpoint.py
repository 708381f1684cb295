"""Load a checkpoint only if it is sound: no missing tensors, finite numbers, plausible sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from smol_hf.support.formatting import counted
from smol_hf.training.recipe.values import RecipeError

# Far above any published model; a larger value would build layers for hours.
LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth"), 2_000),
    **dict.fromkeys(("num_attention_heads", "num_experts", "num_local_experts", "image_size", "n_head"), 100_000),
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "n_embd", "n_inner"), 100_000_000),
}
MAY_BE_INFINITE = ("time_step_limit",)  # Mamba's, without a limit above
OPTIONAL = ("n_inner", "num_experts", "num_local_experts")
OF_CHANNELS, CHANNELS = ("image_mean", "image_std"), 3
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "projector_hidden_act")


class UnsoundCheckpointError(RecipeError):
    """A checkpoint whose answers would be meaningless."""


def load_sound(auto_class, checkpoint: str | Path, **options) -> PreTrainedModel:
    """Call `auto_class.from_pretrained(checkpoint, **options)` and check the result.

    Raises:
        UnsoundCheckpointError: for missing tensors, NaN or infinity, which transformers accepts.
        OSError: for damaged or truncated weights.
    """
    try:
        model, loading = auto_class.from_pretrained(checkpoint, output_loading_info=True, **options)
    except SafetensorError as error:
        raise OSError(
            f"the weights of {checkpoint} are damaged or truncated ({error}): download them again"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UnsoundCheckpointError(
            f"{checkpoint}: {counted(len(missing), 'tensor', 'is/are')} missing, first {missing[0]}: random numbers "
            "would be used instead; download the checkpoint again"
        )
    if broken := nonfinite(model.named_parameters()):
        raise UnsoundCheckpointError(
            f"{checkpoint}: {counted(len(broken), 'weight', 'holds/hold')} NaN or infinity, first {broken[0]}: its "
            "answers would be meaningless; use an earlier checkpoint"
        )
    return model


def nonfinite(weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Return the names of the weights with NaN or infinity."""
    return [
        name
        for name, weight in weights
        if weight.is_floating_point() and not weight.is_meta and not is_finite(weight.detach())
    ]


def is_finite(weight: torch.Tensor) -> bool:
    """Return True if all values are finite, without a copy. float8 has no minimum, so it is converted."""
    if weight.numel() == 0:
        return True
    if weight.element_size() == 1:
        weight = weight.float()
    return all(torch.isfinite(each).item() for each in torch.aminmax(weight))


def refuse_unsound_config(config: PretrainedConfig | dict, checkpoint: str | Path) -> None:
    """Raise UnsoundCheckpointError for a configuration with an impossible size or number."""
    for key, value in settings_of(config):
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, int) and value > LARGEST.get(key, value):
            problem = f"{key} is {value:,}, but no model has more than {LARGEST[key]:,}"
        elif isinstance(value, int) and value < 0 and key in LARGEST:
            problem = f"{key} is {value}"
        elif key not in MAY_BE_INFINITE and not all(map(is_finite_value, numbers)):
            problem = f"{key} of its configuration holds NaN or infinity"
        elif key in OF_CHANNELS and isinstance(value, (list, tuple)) and len(value) != CHANNELS:
            problem = f"{key} of its configuration has {counted(len(value), 'value')} for {CHANNELS} channels"
        else:
            continue
        raise UnsoundCheckpointError(f"{checkpoint}: {problem}: correct its configuration")


def settings_of(config: PretrainedConfig | dict) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a configuration, the inner configurations first."""
    values = config if isinstance(config, dict) else config.to_dict()
    for value in values.values():
        if isinstance(value, dict):
            yield from settings_of(value)
    yield from values.items()


@contextmanager
def configuration_errors(checkpoint: str | Path, config: PretrainedConfig | dict | None = None) -> Iterator[None]:
    """Turn errors from a configuration's values into an UnsoundCheckpointError with key and value."""
    try:
        yield
    except (StrictDataclassError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        unusable = (setting for setting in settings_of(config or {}) if is_unusable(*setting))
        key, value = next(unusable, (None, None))
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"its configuration has the unusable value {key}: {json.dumps(value)}" if key else reason
        raise UnsoundCheckpointError(f"{checkpoint}: {what}; correct its configuration") from error


def is_unusable(key: str, value: Any) -> bool:
    """Return True for a size that is not positive, and for an unknown activation."""
    if key in ACTIVATIONS:
        return not (isinstance(value, str) and value in ACT2FN)
    is_size = key in LARGEST and key not in OPTIONAL and not isinstance(value, (list, tuple))
    return is_size and (not isinstance(value, int) or value <= 0)


def is_finite_value(value: Any) -> bool:
    """Return False for NaN and infinity. transformers writes them to JSON as {"__float__": "NaN"}."""
    if isinstance(value, dict) and "__float__" in value:
        value = float(value["__float__"])
    return not isinstance(value, float) or math.isfinite(value)
