"""The parts of a model (vision, connector, text): their parameters, learning rates and freezing.

All parameters are in the optimizer from the start, in groups by part (`parameter_groups`). Whether a part is frozen is
a pure function of the step, so resuming before or after the unfreezing needs no saved state. Parameters that were
added later would break the schedule, and those that the optimizer does not know would silently never train.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from smol_hf.training.optimizer.muon import USE_MUON
from smol_hf.training.recipe.values import RecipeError

PARTS = ("vision", "connector", "text")
NEW_TOKENS = "new_tokens"  # trained rows of embeddings in a frozen part, see new_tokens.py
MODULES = {"vision_model": "vision", "connector": "connector"}


def part_of(parameter_name: str) -> str:
    """Return `vision`, `connector` or `text` for the name of a parameter."""
    for module in parameter_name.split("."):
        if module in MODULES:
            return MODULES[module]
        if module == "language_model":
            break
    return "text"


def part_modules(model: nn.Module) -> dict[str, str]:
    """Return the path of each part's module. A text-only model is itself the part `text`."""
    if not hasattr(model, "connector"):
        return {"text": ""}
    return {"vision": "vision_model", "connector": "connector", "text": "language_model"}


def is_adapter_weight(parameter_name: str) -> bool:
    """Return True for a parameter of PEFT: an update, a trained copy of a module, or of rows of the embeddings."""
    return any(mark in parameter_name for mark in (".lora_", ".modules_to_save.", ".trainable_tokens_"))


def number_of_weights(parameter: nn.Parameter) -> int:
    """Count the weights of a parameter: bitsandbytes packs two of four bits into a byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return `total` and `trainable` parameters of each part.

    Tied weights count once. Of a module that PEFT trains as a copy, the copy counts.
    """
    counts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        count = counts.setdefault(part_of(name), {"total": 0, "trainable": 0})
        number = number_of_weights(parameter)
        count["total"] += number
        count["trainable"] += number * parameter.requires_grad
    return {part: counts[part] for part in PARTS if part in counts}


@dataclass(frozen=True)
class FreezeSchedule:
    """The parts that learn at a step.

    Attributes:
        learning_rates: peak of each part; 0: never trained.
        adapters_only: only weights that PEFT added are trained.
        new_token_weights: parameters of a frozen part with trained rows; they form the part `new_tokens`.
    """

    learning_rates: dict[str, float]
    unfreeze_vision_at_step: int = 0
    vision_warmup_steps: int = 0
    adapters_only: bool = False
    new_token_weights: frozenset[str] = frozenset()

    def part_of(self, name: str) -> str:
        """Return the part of a parameter."""
        return NEW_TOKENS if name in self.new_token_weights else part_of(name)

    def is_frozen(self, part: str, step: int) -> bool:
        """Return True if a part does not learn at a step."""
        return self.learning_rates[part] == 0 or (part == "vision" and step < self.unfreeze_vision_at_step)

    def ever_trains_parameter(self, name: str) -> bool:
        """Return True if a parameter learns at some step."""
        return self.learning_rates[self.part_of(name)] > 0 and (is_adapter_weight(name) or not self.adapters_only)

    def factor(self, part: str, step: int) -> float:
        """Return the factor of the common schedule: 0 while frozen, then rising over the part's own warmup."""
        if self.is_frozen(part, step):
            return 0.0
        if part == "vision" and self.vision_warmup_steps:
            return min(1.0, (step - self.unfreeze_vision_at_step + 1) / self.vision_warmup_steps)
        return 1.0

    def apply(self, model: nn.Module, step: int) -> None:
        """Set `requires_grad` of every parameter for a step.

        A frozen parameter has no gradient, so AdamW changes neither it nor its moments, and does not decay it.
        """
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.ever_trains_parameter(name) and not self.is_frozen(self.part_of(name), step))


def refuse_changing_features(config: Any, learning_rates: dict[str, float]) -> None:
    """Raise RecipeError if a run can compute different features of an image in two passes."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        raise RecipeError("cache_image_features needs a model with an image encoder: remove the key")
    if learning_rates["vision"] > 0:
        raise RecipeError(
            "cache_image_features needs an image encoder that never trains: set vision_learning_rate: 0, and no "
            "adapters for vision"
        )
    random = [f"{name} {value}" for name, value in vision.to_dict().items() if "drop" in name and value]
    if random:
        raise RecipeError(
            f"cache_image_features needs features without randomness, but the image encoder has {', '.join(random)}: "
            "remove the key"
        )


class FreezeCallback(TrainerCallback):
    """Applies the schedule when training begins or resumes, and at the step of the unfreezing.

    An earlier call would be wrong: DDP registers the parameters that require gradients when it wraps the model, and
    the others would silently differ between processes later.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.schedule.apply(model, state.global_step)

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step == self.schedule.unfreeze_vision_at_step:
            self.schedule.apply(model, state.global_step)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    decayed_names: set[str],
    weight_decay: float,
    schedule: FreezeSchedule,
    muon_weights: frozenset[str] = frozenset(),
) -> list[dict]:
    """Return the optimizer groups of the parts that train, with their peak rates.

    They are `part`, `part_no_decay`, and `part_muon` for decayed parameters in `muon_weights`.
    """
    groups: dict[str, dict] = {}
    for name, parameter in named_parameters:
        part, decays = schedule.part_of(name), name in decayed_names and name not in schedule.new_token_weights
        if not schedule.ever_trains_parameter(name):
            continue
        uses_muon = decays and name in muon_weights
        group_name = f"{part}_muon" if uses_muon else part if decays else f"{part}_no_decay"
        new = {
            "name": group_name,
            "lr": schedule.learning_rates[part],
            "weight_decay": weight_decay if decays else 0.0,
            **({USE_MUON: True} if uses_muon else {}),
        }
        group = groups.setdefault(group_name, {**new, "params": []})
        group["params"].append(parameter)
    parts = (*PARTS, NEW_TOKENS)
    return [groups[name] for part in parts for name in (part, f"{part}_no_decay", f"{part}_muon") if name in groups]


def group_part(group: dict) -> str:
    """Return the part of an optimizer group."""
    return group["name"].removesuffix("_no_decay").removesuffix("_muon")


def times_part(common, schedule: FreezeSchedule, group: dict):
    """Return the common schedule times the part's factor, as a plain function, which `LambdaLR` does not save."""
    return lambda step: common(step) * schedule.factor(group_part(group), step)


def schedule_parts(scheduler, schedule: FreezeSchedule) -> None:
    """Give each group of a `LambdaLR` its part's factor, from step 0 on.

    Raises:
        ValueError: if the vision encoder unfreezes later but the schedule is not a function of the step.
    """
    if not isinstance(scheduler, LambdaLR):
        if schedule.unfreeze_vision_at_step or schedule.vision_warmup_steps:
            raise ValueError(
                f"unfreeze_vision_at_step needs a schedule that depends only on the step, not "
                f"{type(scheduler).__name__}: choose cosine, linear, constant_with_warmup or warmup_stable_decay"
            )
        return
    groups = scheduler.optimizer.param_groups
    scheduler.lr_lambdas = [times_part(common, schedule, group) for common, group in zip(scheduler.lr_lambdas, groups)]
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]
