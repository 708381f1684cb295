"""The records of a run: its resolved recipe and `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from smol_hf.support.atomic import atomic_file
from smol_hf.training.recipe.data_arguments import PreferenceArguments
from smol_hf.training.recipe.inherited_keys import key_of
from smol_hf.training.recipe.keys import Runs
from smol_hf.training.recipe.model_arguments import LoraArguments

PACKAGES = ("smol_hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def resolve_recipe(recipe: dict, model_arguments, data_arguments, training_arguments) -> dict:
    """Return the recipe that repeats this run: the given keys, and our keys that apply to this kind of run."""
    runs = Runs.CONVERSATIONS if getattr(data_arguments, "documents", None) is None else Runs.DOCUMENTS
    runs = Runs.PREFERENCES if isinstance(data_arguments, PreferenceArguments) else runs
    resolved = {}
    for arguments in (model_arguments, data_arguments, training_arguments):
        for entry in fields(arguments):
            key = key_of(entry)
            if key.recorded and runs in key.runs and not getattr(key, runs.command):
                value = getattr(arguments, entry.name)
                resolved[entry.name] = getattr(value, "value", value)
            elif entry.name in recipe:
                resolved[entry.name] = recipe[entry.name]
    follows = "global_batch_size" in recipe and "gradient_accumulation_steps" not in recipe
    without = {"gradient_accumulation_steps"} if follows else set()
    without |= {"resume_from_checkpoint", *(() if model_arguments.use_peft else LoraArguments.__dataclass_fields__)}
    return {name: value for name, value in resolved.items() if name not in without}


def write_run(output_dir: Path, run_state: dict) -> None:
    """Write `run.json`. A process that is killed leaves the earlier file."""
    with atomic_file(output_dir / "run.json") as file:
        file.write_text(json.dumps(run_state, indent=1) + "\n", encoding="utf-8")


def hardware() -> str:
    """Return the devices of all processes, such as `2 × NVIDIA H100 80GB HBM3` or `CPU (x86_64, 8 cores)`."""
    device = PartialState().device
    if torch.cuda.is_available() and device is not None and device.type == "cuda":
        own = torch.cuda.get_device_name(device)
    else:
        own = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    devices = Counter(gather_object([own]))
    return ", ".join(name if number == 1 else f"{number} × {name}" for name, number in devices.items())
