"""Build models from tensors: on the meta device, which uses no memory, and checked by name and shape."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, apply_renamings, revert_weight_conversion

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.support.formatting import counted
from smol_hf.training.model.sound_checkpoint import configuration_errors, nonfinite, refuse_unsound_config


def model_of(model_class: type[PreTrainedModel], config: PretrainedConfig, tensors: dict) -> PreTrainedModel:
    """Build a model to be saved, not run. It holds these tensors themselves, in their own dtype.

    Raises:
        ConversionError: with the first tensor that is missing, unknown, of another shape or kind, or not finite.
    """
    refuse_unsound_config(config, "the configuration")
    with torch.device("meta"), configuration_errors("the model", config):
        model = model_class._from_config(config)
    compare_with(model, tensors)
    tensors = class_names(model, tensors)
    refuse_other_numbers(tensors)
    if broken := nonfinite(tensors.items()):
        raise ConversionError(f"{broken[0]} contains NaN or infinity: the answers would be nonsense")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    model.config.dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return model


def class_names(model: PreTrainedModel, tensors: dict) -> dict:
    """Rename tensors of a file to the names in the model's class, as transformers does when it loads them.

    transformers 5 has other names than its files for DINOv2 and GPT-NeoX.
    """
    renamings = [
        each
        for each in get_model_conversion_mapping(model, add_legacy=False)
        if isinstance(each, WeightRenaming) and not isinstance(each, PrefixChange)
    ]
    known = model.state_dict().keys()
    return {name if name in known else apply_renamings(name, renamings): tensor for name, tensor in tensors.items()}


def file_names(model: PreTrainedModel) -> dict:
    """Return the tensors of a model by the names that transformers writes into files."""
    return revert_weight_conversion(model, model.state_dict())


def refuse_other_numbers(tensors: dict) -> None:
    """Raise ConversionError for the first tensor that is not of floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ConversionError(f"{name} is {tensor.dtype}: the weights must be floating-point numbers")


def compare_with(model: PreTrainedModel, tensors: dict) -> None:
    """Raise ConversionError unless names and shapes of `tensors` are those of the model, tied weights once."""
    tensors = class_names(model, tensors)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    compare_tensors(expected, tensors, type(model).__name__)


def compare_tensors(expected: dict, tensors: dict, target: str) -> None:
    """Raise ConversionError unless names and shapes of `tensors` are the expected ones."""
    missing = sorted(expected.keys() - tensors.keys())
    unused = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    faults = [
        f"{counted(len(found), 'tensor', verb)} {what}, first {found[0]}"
        for verb, what, found in (
            ("is/are", "missing", missing),
            ("is/are", "unknown", unused),
            ("has/have", "another shape", wrong),
        )
        if found
    ]
    if faults:
        raise ConversionError(f"the weights do not fit {target}: " + "; ".join(faults))
