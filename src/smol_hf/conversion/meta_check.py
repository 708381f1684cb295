"""A model without memory, to see that a set of tensors is exactly what it needs, and then to hold them."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.training.model.sound_checkpoint import configuration_errors, nonfinite, refuse_unsound_config


def model_of(model_class: type[PreTrainedModel], config: PretrainedConfig, tensors: dict) -> PreTrainedModel:
    """The model with these tensors as its weights: not copied, in their own dtype. It is for saving, not for running.

    Raises:
        ConversionError: naming the first tensor that is missing, not known, or of another shape.
    """
    refuse_unsound_config(config, "the configuration")
    with torch.device("meta"), configuration_errors("the model", config):
        model = model_class._from_config(config)
    compare_with(model, tensors)
    if broken := nonfinite(tensors.items()):
        raise ConversionError(f"{broken[0]} holds NaN or infinity: such a model answers nonsense")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    model.config.dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return model


def compare_with(model: PreTrainedModel, tensors: dict) -> None:
    """Raises ConversionError unless `tensors` are the model's, name by name and shape by shape, tied ones once."""
    expected = needed_shapes(model)
    missing = sorted(expected.keys() - tensors.keys())
    unused = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    faults = [
        f"{len(found)} tensors {what}, first {found[0]}"
        for what, found in (("are missing", missing), ("are unknown", unused), ("have another shape", wrong))
        if found
    ]
    if faults:
        raise ConversionError(f"the weights are not those of a {type(model).__name__}: " + "; ".join(faults))


def needed_shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}
