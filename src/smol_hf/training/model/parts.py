"""The parts of a model (vision, connector, text): their parameters, learning rates and when they are frozen.

All parameters are in the optimizer from the start, in groups named part × decay. Whether a part is frozen is a pure
function of the step, so a run that resumes on either side of the unfreezing needs no saved state. Adding parameters
to the optimizer later would break its schedule; setting `requires_grad` on parameters it never saw would leave them
still without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

PARTS = ("vision", "connector", "text")
NEW_TOKENS = "new_tokens"  # rows of embeddings that are trained although their part is frozen, see new_tokens.py
MODULES = {"vision_model": "vision", "connector": "connector"}


def part_of(parameter_name: str) -> str:
    """`vision`, `connector` or `text`, from where the parameter stands in the model."""
    for module in parameter_name.split("."):
        if module in MODULES:
            return MODULES[module]
        if module == "language_model":
            break
    return "text"


def part_modules(model: nn.Module) -> dict[str, str]:
    """{part: path of its module} of the parts that the model has; a language model alone is itself the part text."""
    if not hasattr(model, "connector"):
        return {"text": ""}
    return {"vision": "vision_model", "connector": "connector", "text": "language_model"}


def is_adapter_weight(parameter_name: str) -> bool:
    """Whether PEFT added this parameter: an update, a trained copy of a module, or of some rows of the embeddings."""
    return any(mark in parameter_name for mark in (".lora_", ".modules_to_save.", ".trainable_tokens_"))


def number_of_weights(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for: bitsandbytes packs two of four bits into a byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """{part: {"total": n, "trainable": n}} of the parts that the model has; tied weights count once, and a module
    that PEFT trains as a copy counts as the copy."""
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
    """Which parts learn at a step. `learning_rates` are the peaks per part, 0 = never. With `adapters_only` it is
    what PEFT added to a part that learns, and the part's own weights never do. `new_token_weights` are parameters of
    a frozen part with rows that learn; they form a part of their own, `new_tokens`."""

    learning_rates: dict[str, float]
    unfreeze_vision_at_step: int = 0
    vision_warmup_steps: int = 0
    adapters_only: bool = False
    new_token_weights: frozenset[str] = frozenset()

    def part_of(self, name: str) -> str:
        """The part of a parameter."""
        return NEW_TOKENS if name in self.new_token_weights else part_of(name)

    def is_frozen(self, part: str, step: int) -> bool:
        return self.learning_rates[part] == 0 or (part == "vision" and step < self.unfreeze_vision_at_step)

    def ever_trains(self, part: str) -> bool:
        return self.learning_rates[part] > 0

    def ever_trains_parameter(self, name: str) -> bool:
        return self.ever_trains(self.part_of(name)) and (is_adapter_weight(name) or not self.adapters_only)

    def factor(self, part: str, step: int) -> float:
        """What multiplies the common schedule: 0 while frozen, then rising over the part's own warmup."""
        if self.is_frozen(part, step):
            return 0.0
        if part == "vision" and self.vision_warmup_steps:
            return min(1.0, (step - self.unfreeze_vision_at_step + 1) / self.vision_warmup_steps)
        return 1.0

    def apply(self, model: nn.Module, step: int) -> None:
        """Set `requires_grad` of every parameter to what holds at `step`.

        A parameter without gradients gets None, and AdamW then leaves it alone, its decay too.
        """
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.ever_trains_parameter(name) and not self.is_frozen(self.part_of(name), step))


class FreezeCallback(TrainerCallback):
    """Applies the schedule when training begins or resumes, and at the step of the unfreezing.

    Not earlier: DDP registers the parameters that require gradients when it wraps the model, and one that it did not
    register would silently differ between processes afterwards.
    """

    def __init__(self, schedule: FreezeSchedule):
        self.schedule = schedule

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.schedule.apply(model, state.global_step)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.schedule.unfreeze_vision_at_step:
            self.schedule.apply(model, state.global_step)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    decayed_names: set[str],
    weight_decay: float,
    schedule: FreezeSchedule,
) -> list[dict]:
    """Optimizer groups `part` and `part_no_decay` of the parts that ever train, each with its peak learning rate."""
    groups: dict[str, dict] = {}
    for name, parameter in named_parameters:
        part, decays = schedule.part_of(name), name in decayed_names and name not in schedule.new_token_weights
        if not schedule.ever_trains_parameter(name):
            continue
        group_name = part if decays else f"{part}_no_decay"
        group = groups.setdefault(
            group_name,
            {
                "name": group_name,
                "params": [],
                "lr": schedule.learning_rates[part],
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    parts = (*PARTS, NEW_TOKENS)
    return [groups[name] for part in parts for name in (part, f"{part}_no_decay") if name in groups]


def group_part(group: dict) -> str:
    return group["name"].removesuffix("_no_decay")


def part_factor(common, schedule: FreezeSchedule, part: str):
    """The common schedule times the part's own factor, as the plain function that `LambdaLR` can leave unsaved."""

    def factor(step: int) -> float:
        return common(step) * schedule.factor(part, step)

    return factor


def schedule_parts(scheduler, schedule: FreezeSchedule) -> None:
    """Give each group of a `LambdaLR` its part's factor, from step 0 on.

    Raises:
        ValueError: when the vision encoder unfreezes later but the schedule is not a function of the step.
    """
    if not isinstance(scheduler, LambdaLR):
        if schedule.unfreeze_vision_at_step or schedule.vision_warmup_steps:
            raise ValueError(
                f"unfreeze_vision_at_step needs a schedule that depends on the step alone, not "
                f"{type(scheduler).__name__}: choose cosine, linear, constant_with_warmup or warmup_stable_decay"
            )
        return
    groups = scheduler.optimizer.param_groups
    scheduler.lr_lambdas = [
        part_factor(common, schedule, group_part(group)) for common, group in zip(scheduler.lr_lambdas, groups)
    ]
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]


def part_learning_rates(param_groups: Iterable[dict]) -> Iterator[tuple[str, float]]:
    """(part, present learning rate), each part once."""
    seen = set()
    for group in param_groups:
        part = group_part(group)
        if part not in seen:
            seen.add(part)
            yield part, group["lr"]
