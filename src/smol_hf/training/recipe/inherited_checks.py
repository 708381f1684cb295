"""Checks of the inherited keys of a recipe: against `INHERITED`, and by the libraries that use them."""

from __future__ import annotations

import copy
import importlib.util
import typing
from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames, TrainingArguments
from transformers.utils.import_utils import is_flash_attn_2_available, is_kernels_available
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from smol_hf.metrics.scores import METRICS
from smol_hf.support.formatting import counted, nearest
from smol_hf.support.key_values import type_problem
from smol_hf.training.optimizer.choice import optimizer_class
from smol_hf.training.optimizer.muon import MUON, USE_MUON
from smol_hf.training.recipe.inherited_keys import INHERITED, inherited_names
from smol_hf.training.recipe.keys import check_value, default_of
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

# These optimizers step during the backward pass, or need their own groups of parameters.
OTHER_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")
MEASURED_SCHEDULES = ("reduce_lr_on_plateau", "greedy")  # the rate follows from the loss
OF_THE_OPTIMIZER = {"adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")


def is_on(value: Any) -> bool:
    return value not in (None, False, 0, "", "no", "none", [], ["none"])


CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "report_to": lambda arguments: bool(tracker_names(arguments)),
    "report_to: trackio": lambda arguments: {"trackio", "all"} & set(tracker_names(arguments)),
    "eval_strategy": lambda arguments: is_on(arguments.eval_strategy),
    "load_best_model_at_end: true or save_strategy: best": lambda arguments: (
        arguments.load_best_model_at_end or arguments.save_strategy == "best"
    ),
    "dataloader_num_workers": lambda arguments: is_on(arguments.dataloader_num_workers),
    "precompute_ref_log_probs: true": lambda arguments: arguments.precompute_ref_log_probs,
    "sync_ref_model: true": lambda arguments: arguments.sync_ref_model,
    "loss_type: discopop": lambda arguments: "discopop" in arguments.loss_type,
    "a loss_type of exo_pair, robust, aot or aot_unpaired": lambda arguments: (
        {"exo_pair", "robust", "aot", "aot_unpaired"} & set(arguments.loss_type)
    ),
    "f_divergence_type: alpha_divergence": lambda arguments: arguments.f_divergence_type == "alpha_divergence",
}


def refuse_inherited(arguments: SFTConfig | DPOConfig) -> None:
    """Refuse inherited keys that cannot work, before transformers changes them. Raises ValueError, naming the key."""
    if arguments.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise ValueError("the key deepspeed needs the package deepspeed: pip install deepspeed")
    command = "dpo" if isinstance(arguments, DPOConfig) else "train"
    types, entries = typing.get_type_hints(type(arguments)), type(arguments).__dataclass_fields__
    for name in inherited_names(command):
        value = getattr(arguments, name)
        has_default = value == default_of(entries[name]) and not type_problem(value, types[name])
        if has_default or (name in INHERITED and value in INHERITED[name].allowed):
            continue
        if (key := INHERITED.get(name)) is None:
            raise ValueError(f"{name} is not supported by this version of smol_hf: leave it out")
        if reason := getattr(key, command):
            raise ValueError(f"{name} {reason}")
        check_value(name, value, key, types[name])
        if key.needs is not None and not CONDITIONS[key.needs](arguments):
            raise ValueError(f"{name} has no effect without {key.needs}")
    if arguments.save_strategy == "best":
        for name in ("eval_strategy", "metric_for_best_model"):
            has_default = name == "metric_for_best_model" and arguments.load_best_model_at_end  # then it is the loss
            if not has_default and not is_on(getattr(arguments, name)):
                raise ValueError(f"save_strategy best needs {name}: it saves after the best evaluation")
    refuse_trackers(arguments)


def check_optimizer_name(optim: str) -> None:
    """Refuse an optimizer that neither transformers nor smol_hf has. Raises ValueError."""
    known = [*(each.value for each in OptimizerNames), MUON]
    if optim not in known:
        raise ValueError(f"optim is {optim!r}{nearest(optim, known)} (known: {', '.join(known)})")


def tracker_names(arguments: SFTConfig | DPOConfig) -> list[str]:
    """Return the trackers of `report_to`."""
    names = arguments.report_to
    names = [names] if isinstance(names, str) else list(names or [])
    return [name for name in names if name != "none"]


def refuse_trackers(arguments: SFTConfig | DPOConfig) -> None:
    """Refuse a tracker of `report_to` that is unknown or not installed. Raises ValueError."""
    for name in tracker_names(arguments):
        if name == "all":
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ValueError(f"report_to: unknown tracker {name!r}{nearest(name, known)} (known: {', '.join(known)})")
        if name not in get_available_reporting_integrations():
            raise ValueError(f"report_to: {name} is not installed: install its package, or set report_to: none")


def check_best_metric(arguments: Any) -> None:
    """Check the keys of the best checkpoint and of early stopping, and settle the direction. Raises ValueError."""
    patience = arguments.early_stopping_patience
    if patience is not None and not arguments.load_best_model_at_end:
        raise ValueError("early_stopping_patience needs load_best_model_at_end: true, or the best model would be lost")
    if arguments.early_stopping_threshold and patience is None:
        raise ValueError("early_stopping_threshold has no effect without early_stopping_patience: leave it out")
    if (metric := arguments.metric_for_best_model) is None:
        return
    name, *_ = metric.removeprefix("eval_").partition("/")
    known = [*LOWER_IS_BETTER, *METRICS]
    if name not in known:
        raise ValueError(
            f"metric_for_best_model is {metric!r}: choose one of {', '.join(known)}, with several sources also "
            "loss/SOURCE"
        )
    if arguments.greater_is_better is None:
        arguments.greater_is_better = name in METRICS and METRICS[name].higher_is_better


def settle_global_batch(recipe: dict[str, Any], arguments: SFTConfig | DPOConfig, processes: int) -> None:
    """Compute the accumulation from `global_batch_size`, or compare them. Raises RecipeError.

    Args:
        recipe: the keys as they were given.
    """
    wanted: int | None = arguments.global_batch_size  # type: ignore[attr-defined]  (of `Defaults`)
    if wanted is None:
        return
    rows = arguments.per_device_train_batch_size * processes
    shown = f"global_batch_size is {wanted:,}, but per_device_train_batch_size {arguments.per_device_train_batch_size}"
    launched = counted(processes, "process", ending="es")
    if recipe.get("gradient_accumulation_steps") is not None:
        accumulation = arguments.gradient_accumulation_steps
        if rows * accumulation != wanted:
            raise RecipeError(
                f"{shown} × gradient_accumulation_steps {accumulation} × {launched} is "
                f"{rows * accumulation:,}: leave gradient_accumulation_steps out, so that it follows"
            )
    elif wanted % rows:
        raise RecipeError(f"{shown} × {launched} does not divide it: choose numbers whose product does")
    else:
        arguments.gradient_accumulation_steps = wanted // rows


def check_libraries(arguments: SFTConfig | DPOConfig) -> None:
    """Refuse an optimizer, a schedule or a compilation that a library refuses. Raises ValueError, naming the key.

    Builds the optimizer of a single weight, and compiles a single layer if the recipe compiles.
    """
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    if optim.startswith(OTHER_OPTIMIZERS):
        raise ValueError(f"optim {optim} is not supported: choose adamw_torch_fused, adafactor, sgd, lion_32bit, ...")
    if (schedule := SchedulerType(arguments.lr_scheduler_type).value) in MEASURED_SCHEDULES:
        raise ValueError(f"lr_scheduler_type {schedule} is not supported: the rate must be a function of the step")
    layer: Any = torch.nn.Linear(1, 1)
    try:
        kind, options = optimizer_class(arguments, layer)
        kind([{"params": [layer.weight], USE_MUON: True}, {"params": [layer.bias]}], **options)
    except (ImportError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        given = f" with optim_args {arguments.optim_args}" if arguments.optim_args else ""
        raise ValueError(f"optim {optim}{given}: {error}") from error
    if arguments.optim_args and optim != MUON:
        without = copy.copy(arguments)
        without.optim_args = None
        if optimizer_class(without, layer)[1] == options:
            raise ValueError(f"optim_args {arguments.optim_args} has no effect with optim {optim}")
    entries = type(arguments).__dataclass_fields__
    for name, option in OF_THE_OPTIMIZER.items():
        if option not in options.get("adamw", options) and getattr(arguments, name) != default_of(entries[name]):
            raise ValueError(f"{name} has no effect with optim {optim}")
    if arguments.torch_compile:
        backend, mode = arguments.torch_compile_backend or "inductor", arguments.torch_compile_mode
        try:
            torch.compile(layer, backend=backend, mode=mode)
        except (RuntimeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"torch_compile_backend or torch_compile_mode: {reason}") from error


def refuse_what_cannot_train(model: ModelArguments, training: TrainingArguments) -> None:
    """Refuse keys of the model that this machine, or another key, does not allow. Raises RecipeError."""
    if model.attn_implementation == "flash_attention_2" and not (
        is_flash_attn_2_available() or is_kernels_available()
    ):
        raise RecipeError(
            "attn_implementation flash_attention_2 needs a GPU and the package flash-attn (pip install flash-attn "
            "--no-build-isolation): install it, or use sdpa, which is part of PyTorch"
        )
    if getattr(training, "disable_dropout", False) and model.lora_dropout not in (0, ModelArguments.lora_dropout):
        raise RecipeError(f"lora_dropout {model.lora_dropout} has no effect without disable_dropout: false")
    if training.fp16 and model.dtype == "float16":
        raise RecipeError("fp16 scales the gradients of float32 weights, and dtype is float16: set dtype: float32")
