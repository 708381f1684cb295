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

from smol_hf.training.recipe.values import RecipeError

# Far above any published model; a larger value would build layers for hours.
LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth"), 2_000),
    **dict.fromkeys(("num_attention_heads", "num_experts", "num_local_experts", "image_size", "n_head"), 100_000),
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "n_embd", "n_inner"), 100_000_000),
}
MAY_BE_INFINITE = ("time_step_limit",)  # Mamba's, without a limit above
OPTIONAL = ("n_inner", "num_experts", "num_local_experts")
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
            f"{checkpoint}: {len(missing)} tensors are missing, first {missing[0]}: random numbers would replace "
            "them; download the checkpoint again"
        )
    if broken := nonfinite(model.named_parameters()):
        raise UnsoundCheckpointError(
            f"{checkpoint}: {len(broken)} weights hold NaN or infinity, first {broken[0]}: its answers would be "
            "meaningless; use an earlier checkpoint"
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
    """Raise UnsoundCheckpointError for a configuration with an impossible size or a number that is not finite."""
    values = config if isinstance(config, dict) else config.to_dict()
    refuse_oversized(values, checkpoint)
    refuse_nonfinite_values(values, checkpoint)


@contextmanager
def configuration_errors(checkpoint: str | Path, config: PretrainedConfig | dict | None = None) -> Iterator[None]:
    """Turn errors from a configuration's values into an UnsoundCheckpointError with key and value."""
    try:
        yield
    except (StrictDataclassError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        values = config.to_dict() if isinstance(config, PretrainedConfig) else config or {}
        key, value = next(unusable_values(values), (None, None))
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"its configuration has the unusable value {key}: {json.dumps(value)}" if key else reason
        raise UnsoundCheckpointError(f"{checkpoint}: {what}; correct its configuration") from error


def unusable_values(values: dict) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of sizes that are not positive and of unknown activations; inner parts first."""
    for value in values.values():
        if isinstance(value, dict):
            yield from unusable_values(value)
    for key, value in values.items():
        is_size = key in LARGEST and key not in OPTIONAL and not isinstance(value, (list, tuple))
        if (is_size and (not isinstance(value, int) or value <= 0)) or (
            key in ACTIVATIONS and not (isinstance(value, str) and value in ACT2FN)
        ):
            yield key, value


def refuse_nonfinite_values(values: dict, checkpoint: str | Path) -> None:
    """Raise UnsoundCheckpointError for NaN or infinity in these values and inner dictionaries."""
    for key, value in values.items():
        if isinstance(value, dict) and "__float__" not in value:  # how transformers writes a number that JSON lacks
            refuse_nonfinite_values(value, checkpoint)
            continue
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if key not in MAY_BE_INFINITE and not all(map(is_usable, numbers)):
            raise UnsoundCheckpointError(
                f"{checkpoint}: {key} of its configuration holds NaN or infinity: correct its configuration"
            )


def is_usable(value) -> bool:
    """Return True unless a value of a configuration is NaN or infinity."""
    if isinstance(value, dict) and "__float__" in value:
        value = float(value["__float__"])
    return not isinstance(value, float) or math.isfinite(value)


def refuse_oversized(values: dict, checkpoint: str | Path) -> None:
    """Raise UnsoundCheckpointError for a configuration with an implausible size."""
    for key, value in values.items():
        if isinstance(value, dict):
            refuse_oversized(value, checkpoint)
        elif key in LARGEST and isinstance(value, int) and value < 0:
            raise UnsoundCheckpointError(f"{checkpoint}: {key} is {value}: correct its configuration")
        elif isinstance(value, int) and value > LARGEST.get(key, value):
            raise UnsoundCheckpointError(
                f"{checkpoint}: {key} is {value:,}, but no model has more than {LARGEST[key]:,}: correct its "
                "configuration"
            )
