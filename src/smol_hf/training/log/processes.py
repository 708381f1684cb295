"""The processes of a run: how they share the work, and that it is what the launcher and the recipe asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from transformers import Trainer

from smol_hf.support.formatting import counted
from smol_hf.training.checkpoint.checkpoints import layout_of
from smol_hf.training.optimizer.choice import optimizer_class
from smol_hf.training.optimizer.muon import MUON
from smol_hf.training.recipe.values import RecipeError

NAMES = {
    DistributedType.NO: "one process",
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
}  # else DDP
SHARDED = ("FSDP", "DeepSpeed")


def in_main_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in the main process. All processes get its result, or raise its error."""
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = function(*arguments)
        except (OSError, ValueError, RuntimeError) as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def refuse_lone_processes() -> None:
    """Raise RecipeError if the launcher started several processes, and this one does not know the others."""
    said, known = os.environ.get("WORLD_SIZE") or "1", PartialState().num_processes
    if not said.isdecimal():
        raise RecipeError(f"the environment variable WORLD_SIZE is {said!r}: it must be a number of processes")
    if (started := int(said)) > known:  # MPI starts processes without this variable
        on_cpu = str(PartialState().device) == "cpu"
        advice = (
            "no GPU was found: to train on CPUs, start them with torchrun and --use_cpu true"
            if on_cpu
            else "start them with torchrun"
        )
        raise RecipeError(
            f"the launcher started {started} processes, but {counted(known, 'process', ending='es')} would train "
            f"together: {advice}"
        )


def refuse_unequal_processes(settings: dict[str, Any]) -> None:
    """Raise RecipeError in all processes if one of them has other settings than process 0.

    Each machine may have been started with a recipe and data of its own.
    """
    first, *others = gather_object([settings])
    for number, other in enumerate(others, start=1):
        if names := [name for name in first | other if first.get(name) != other.get(name)]:
            shown = "; ".join(f"{name} {short(other.get(name))} instead of {short(first.get(name))}" for name in names)
            raise RecipeError(
                f"process {number} has another recipe or other data than process 0: {shown}. Start all processes with "
                "the same"
            )


def short(value: Any) -> str:
    return text if len(text := str(value)) <= 40 else f"{text[:39]}…"


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
    if running == "DeepSpeed":
        refuse_deepspeed(arguments)
    refuse_optimizer(arguments, running)


def refuse_deepspeed(arguments: Any) -> None:
    """Raise RecipeError for keys that DeepSpeed cannot train with."""
    if getattr(arguments, "spike_policy", None) == "skip":
        raise RecipeError(
            "spike_policy skip is not supported with DeepSpeed, which changes the weights before the step is judged: "
            "choose flag or off, or use FSDP"
        )
    if getattr(arguments, "unfreeze_vision_at_step", 0):
        raise RecipeError(
            "unfreeze_vision_at_step is not supported with DeepSpeed, which never trains a part that is frozen at the "
            "start: use FSDP2, or remove the key"
        )


def refuse_optimizer(arguments: Any, running: str) -> None:
    """Raise RecipeError for Muon with DeepSpeed, and for optimizers of bitsandbytes with FSDP."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    if running == "DeepSpeed" and name == MUON:
        raise RecipeError("optim muon needs matrices, and DeepSpeed makes them vectors: use FSDP2 or DDP")
    if running == "FSDP" and optimizer_class(arguments, None)[0].__module__.startswith("bitsandbytes"):
        raise RecipeError(
            f"optim {name} is of bitsandbytes, which cannot update sharded weights: use DDP, or another optimizer"
        )


def refuse_other_layout(trainer: Trainer, checkpoint: Path) -> None:
    """Raise RecipeError if the running strategy cannot read the files of a checkpoint."""
    running = strategy_of(trainer)
    if running == "FSDP":
        plugin: Any = trainer.accelerator.state.fsdp_plugin
        running = f"FSDP with {plugin.state_dict_type.name}"
    saved = layout_of(checkpoint)
    if saved != (running if running.startswith(SHARDED) else ""):
        raise RecipeError(
            f"{checkpoint.name} was saved by {saved or 'one process or DDP'}, but what runs is {running}: start it as "
            "before, or begin a new run from its weights (smol-hf merge joins shards)"
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
