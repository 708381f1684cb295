"""The model of a trainer as its own class: FSDP2 and DeepSpeed split tensors over processes, FSDP2 changes classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, Trainer
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from smol_hf.data.image_features import ImageFeatures
from smol_hf.training.recipe.values import RecipeError

Tensors = dict[str, torch.Tensor]


def is_sharded(trainer: Trainer) -> bool:
    """Return True if no process holds all tensors of the model."""
    return trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def cached_features(trainer: Trainer) -> ImageFeatures:
    """Return the cached features of images by the image encoder of a trainer.

    Raises RecipeError if no process holds the complete encoder.
    """
    if is_sharded(trainer):
        raise RecipeError(
            "cache_image_features needs the complete image encoder in each process, but FSDP and DeepSpeed split it: "
            "use neither, or remove the key"
        )
    model: Any = trainer.model
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    accelerator: Any = trainer.accelerator
    return ImageFeatures(model, accelerator.autocast)


def gather_model(trainer: Trainer) -> tuple[Any, Tensors | None]:
    """Return the model as its own class, and None. All processes call this together; only the main one may use it.

    A `PeftModel` of FSDP2 keeps its class and its parts of the tensors. The complete tensors by name are then returned
    too, for `save_pretrained`.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if not is_sharded(trainer):
        return model, None
    tensors: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return model, None
    if isinstance(model, PeftModel):
        return model, tensors
    with complete_modules(trainer.args):
        return plain_model(model, tensors), None


def plain_model(model: PreTrainedModel, tensors: Tensors) -> PreTrainedModel:
    """Build the model's own class around complete tensors, without copying them."""
    with torch.device("meta"):
        plain = plain_class(model)._from_config(copy.deepcopy(model.config))
    plain.load_state_dict(tensors, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


@contextmanager
def complete_modules(arguments: Any) -> Iterator[None]:
    """Build complete modules inside the context. With ZeRO-3, transformers would split them over all processes."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if arguments.deepspeed_plugin is not None:
            set_hf_deepspeed_config(arguments.deepspeed_plugin.hf_ds_config)


def plain_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """Return the class that the model had before FSDP2 changed it."""
    return next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule))
