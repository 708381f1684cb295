"""What a run writes down about itself: its recipe, with every key, and `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from smol_hf.training.document_arguments import OF_DOCUMENTS
from smol_hf.training.lora_arguments import LoraArguments
from smol_hf.training.preference_arguments import PreferenceArguments

PACKAGES = ("smol_hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")

# Of the keys with their defaults, those that mean nothing to a language model over documents.
OF_CONVERSATIONS = (
    "data", "adapter", "filters", "image_folder", "fetch_images", "fetch_timeout", "fetch_cache", "max_image_bytes",
    "mixture", "data_root", "stopping", "on_failed_source", "num_pages", "page_size", "turns_per_page", "too_long",
    "image_resizing", "sample_packing", "max_tiles_per_row", "verify_images", "vision_config", "connector_type",
    "scale_factor", "vision_feature_layer", "longest_edge", "do_image_splitting", "enlarge_images", "image_mean",
    "image_std", "vision_learning_rate", "connector_learning_rate", "unfreeze_vision_at_step", "vision_warmup_steps",
    "chat_template",
)  # fmt: skip

# Of the keys of the model, those that mean something to preferences, with those of LoRA.
OF_THE_MODEL = ("model", "chat_template", "dtype", "attn_implementation", *LoraArguments.__dataclass_fields__)

# Inherited keys of the training that a saved recipe always names; with preferences also those of DPO.
OF_THE_TRAINING = (
    "seed", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
    "adam_beta1", "adam_beta2", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    "num_train_epochs", "bf16",
)  # fmt: skip
OF_DPO = (
    "beta", "loss_type", "loss_weights", "label_smoothing", "max_length", "precompute_ref_log_probs",
    "gradient_checkpointing", "output_dir",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def resolve_recipe(recipe: dict[str, Any], model_arguments, data_arguments, training) -> dict[str, Any]:
    """The recipe that repeats this run: the given keys, and every key of ours with the value it had."""
    inherited = {name for parent in type(training).__mro__[1:] for name in getattr(parent, "__annotations__", {})}
    shown = {*type(training).__annotations__} - inherited | {*OF_THE_TRAINING}
    never, unless_given = {"resume_from_checkpoint"}, set()
    if not model_arguments.use_peft:
        never |= {*LoraArguments.__dataclass_fields__}
    if isinstance(data_arguments, PreferenceArguments):
        shown |= {*OF_DPO}
        unless_given = {*vars(model_arguments)} - {*OF_THE_MODEL}
    elif data_arguments.documents is not None:
        unless_given = {*OF_CONVERSATIONS}
    else:
        never |= {"documents", *OF_DOCUMENTS}
    values = {name: getattr(training, name) for name in shown}
    values = {name: getattr(value, "value", value) for name, value in values.items()}
    resolved = {**recipe, **vars(model_arguments), **vars(data_arguments), **values}
    order = [*vars(model_arguments), *vars(data_arguments)]
    order += sorted({*resolved} - {*order})
    hidden = never | (unless_given - {*recipe})
    return {key: resolved[key] for key in order if key not in hidden}


def write_run(output_dir: Path, run_state: dict) -> None:
    (output_dir / "run.json").write_text(json.dumps(run_state, indent=1) + "\n", encoding="utf-8")
