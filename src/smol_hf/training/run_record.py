"""What a run writes down about itself: its recipe, with every key, and `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.document_arguments import OF_DOCUMENTS
from smol_hf.training.lora_arguments import LoraArguments
from smol_hf.training.recipes import ARGUMENT_CLASSES

PACKAGES = ("smol_hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")

# Of the keys with their defaults, those that mean nothing to a language model over documents.
OF_CONVERSATIONS = (
    "data", "adapter", "filters", "image_folder", "max_image_bytes",
    "mixture", "data_root", "stopping", "on_failed_source", "num_pages", "page_size", "turns_per_page", "too_long",
    "image_resizing", "sample_packing", "max_tiles_per_row", "verify_images", "vision_config", "connector_type",
    "scale_factor", "vision_feature_layer", "longest_edge", "do_image_splitting", "enlarge_images", "image_mean",
    "image_std", "vision_learning_rate", "connector_learning_rate", "unfreeze_vision_at_step", "vision_warmup_steps",
    "chat_template",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def resolve_recipe(recipe: dict, *arguments) -> dict:
    """The recipe that repeats this run: what was given, and every key of ours with the value it had."""
    resolved = dict(recipe)
    model_arguments, data_arguments, training_arguments = arguments
    for values in (model_arguments, data_arguments):
        resolved |= vars(values)
    if not model_arguments.use_peft:
        resolved = {key: value for key, value in resolved.items() if key not in LoraArguments.__dataclass_fields__}
    inherited = {
        name for parent in SmolTrainingArguments.__mro__[1:] for name in getattr(parent, "__annotations__", {})
    }
    ours = set(SmolTrainingArguments.__annotations__) - inherited
    shown = ours | {
        "seed", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
        "adam_beta1", "adam_beta2", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
        "num_train_epochs", "bf16",
    }  # fmt: skip
    for name in sorted(shown):
        value = getattr(training_arguments, name)
        resolved[name] = getattr(value, "value", value)
    resolved.pop("resume_from_checkpoint", None)
    if data_arguments.documents is not None:
        resolved = {key: value for key, value in resolved.items() if key not in OF_CONVERSATIONS or key in recipe}
    else:
        resolved = {key: value for key, value in resolved.items() if key not in ("documents", *OF_DOCUMENTS)}
    return {key: resolved[key] for key in sorted(resolved, key=order_of_key)}


def order_of_key(key: str) -> tuple[int, str]:
    for position, arguments in enumerate(ARGUMENT_CLASSES[:2]):
        if key in arguments.__dataclass_fields__:
            return position, str(list(arguments.__dataclass_fields__).index(key)).zfill(3)
    return len(ARGUMENT_CLASSES), key


def write_run(output_dir: Path, run_state: dict) -> None:
    (output_dir / "run.json").write_text(json.dumps(run_state, indent=1) + "\n", encoding="utf-8")
