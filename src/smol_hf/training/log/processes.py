"""The processes of a run: how they share the work, and that it is what the launcher and the recipe asked for."""

from __future__ import annotations

import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

from smol_hf.support.formatting import counted
from smol_hf.training.recipe.values import RecipeError

NAMES = {
    DistributedType.NO: "one process",
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
}  # else DDP
SHARDED = ("FSDP", "DeepSpeed")


def refuse_lone_processes() -> None:
    """Raise RecipeError if the launcher started several processes, and this one does not know the others."""
    said, known = os.environ.get("WORLD_SIZE") or "1", PartialState().num_processes
    if not said.isdecimal():
        raise RecipeError(f"the environment variable WORLD_SIZE is {said!r}: it must be a number of processes")
    if (started := int(said)) > known:  # MPI starts processes without this variable
        raise RecipeError(
            f"the launcher started {started} processes, but {counted(known, 'process', ending='es')} would train "
            "together: leave out use_cpu in the configuration of accelerate, or start them with torchrun"
        )


def strategy_of(trainer: Trainer) -> str:
    """Return `DDP`, `FSDP`, `DeepSpeed`, or `one process`."""
    return NAMES.get(trainer.accelerator.distributed_type, "DDP")


def refuse_other_strategy(trainer: Trainer) -> None:
    """Raise RecipeError if another strategy runs than the one asked for, or if it cannot train the recipe."""
    arguments: Any = trainer.args
    asked = {
        "FSDP": os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" or bool(arguments.fsdp),
        "DeepSpeed": os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
        or bool(arguments.deepspeed),
    }
    refuse_split_sequences(trainer.accelerator.parallelism_config)
    running = strategy_of(trainer)
    for name in SHARDED:
        if asked[name] and running != name:
            where = "on a CPU" if trainer.args.device.type == "cpu" else "with this launcher"
            raise RecipeError(
                f"{name} was asked for, but what runs is {running} {where}: start them on GPUs with accelerate "
                f"launch, or leave {name} out"
            )
    if running == "DeepSpeed" and getattr(arguments, "unfreeze_vision_at_step", 0):
        raise RecipeError(
            "unfreeze_vision_at_step is not supported with DeepSpeed, which never trains a part that is frozen at the "
            "start: use FSDP2, or remove the key"
        )


def refuse_split_sequences(parallelism: Any) -> None:
    """Raise RecipeError for tensor, context and sequence parallelism of the launcher."""
    for name in ("tp", "cp", "sp"):
        if parallelism is not None and getattr(parallelism, f"{name}_size", 1) > 1:
            raise RecipeError(
                f"parallelism_config_{name}_size is not supported: it would split packed rows and images; use only "
                "dp_replicate_size and dp_shard_size"
            )


def describe_processes(trainer: Trainer) -> str:
    """Return a sentence about processes, strategy, precision and rows of a step."""
    accelerator, arguments = trainer.accelerator, trainer.args
    number = accelerator.num_processes
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * number
    precision = {"no": str(getattr(trainer.model, "dtype", "")).removeprefix("torch.")}
    strategy = strategy_of(trainer)
    version = f"{2 if accelerator.is_fsdp2 else 1}" if strategy == "FSDP" else ""
    how = "" if strategy == "one process" else f" ({strategy}{version})"
    return (
        f"{counted(number, 'process', ending='es')}{how} on {arguments.device.type}, precision "
        f"{precision.get(accelerator.mixed_precision, accelerator.mixed_precision)}, {counted(rows, 'row')} per step"
    )
