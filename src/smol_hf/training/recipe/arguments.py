"""Keys of a recipe for the training: those of TRL and transformers, and ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import get_scheduler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.utils.import_utils import is_torch_bf16_gpu_available
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from smol_hf.support.formatting import nearest
from smol_hf.training.optimizer.muon import MUON
from smol_hf.training.recipe.inherited_checks import (
    check_best_metric,
    check_libraries,
    check_optimizer_name,
    refuse_inherited,
)
from smol_hf.training.recipe.inherited_keys import INHERITED
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, key

DEFAULT_OPTIMIZER = "adamw_torch_fused"
RATE = {
    "resume": OnResume.CHANGE, "least": 0, "wanted": "a learning rate is 0 (frozen) or positive",
}  # fmt: skip
IN_STEPS = {"resume": OnResume.CHANGE, "runs": Runs.CONVERSATIONS, "least": 0, "wanted": "a step is 0 or later"}
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


def inherited_key(name: str, default: Any, text: str) -> Any:
    """Make a field of an inherited key with our help."""
    return field(default=default, metadata={"help": text, "key": INHERITED[name]})


@dataclass
class Defaults:
    """Inherited keys whose defaults differ from TRL's in `train` and `dpo`."""

    output_dir: str | None = inherited_key("output_dir", None, "Folder for checkpoints, logs and the result.")
    global_batch_size: int | None = key(
        None,
        "Rows of a step, over all processes. Without gradient_accumulation_steps, it follows from this number. With "
        "both, per_device_train_batch_size × gradient_accumulation_steps × processes must equal it.",
        resume=OnResume.FREE,  # the rows of a step are compared
        recorded=False,
        least=1,
    )
    gradient_checkpointing: bool = False
    logging_steps: float = 10
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False  # with it, a step waits for the loss of each micro-batch
    disable_tqdm: bool | None = True
    report_to: list[str] | None = field(default_factory=lambda: ["none"])
    early_stopping_patience: int | None = key(
        None,
        "Number of consecutive validations without a better metric_for_best_model after which the run stops. It needs "
        "load_best_model_at_end: true.",
        resume=OnResume.CHANGE,
        least=1,
    )
    early_stopping_threshold: float = key(
        0.0, "Smallest improvement of the metric that counts for early stopping.", resume=OnResume.CHANGE, least=0
    )


@dataclass
class SmolTrainingArguments(Defaults, SFTConfig):
    """TRL's SFTConfig, with a learning rate per part and unfreezing of the image encoder."""

    optim: str = inherited_key(
        "optim",
        DEFAULT_OPTIMIZER,
        "Optimizer: a name of transformers, such as adafactor, or muon: Muon for the weights of linear layers, AdamW "
        "for all other parameters. For muon, optim_args sets momentum, nesterov, ns_steps and adjust_lr_fn.",
    )
    vision_learning_rate: float | None = key(
        None,
        "Peak learning rate of the image encoder; 0 freezes it. Without it, learning_rate.",
        runs=Runs.CONVERSATIONS,
        **RATE,
    )
    connector_learning_rate: float | None = key(
        None,
        "Peak learning rate of the connector; 0 freezes it. Without it, learning_rate.",
        runs=Runs.CONVERSATIONS,
        **RATE,
    )
    text_learning_rate: float | None = key(
        None, "Peak learning rate of the language model; 0 freezes it. Without it, learning_rate.", runs=TRAIN, **RATE
    )
    unfreeze_vision_at_step: int = key(0, "Step at which training of the image encoder begins.", **IN_STEPS)
    vision_warmup_steps: int = key(0, "Warmup steps of the image encoder after its unfreezing.", **IN_STEPS)
    decay_steps: float | None = key(
        None,
        "Steps of decay at the end of the run, for lr_scheduler_type warmup_stable_decay. A number below 1 is a share "
        "of the run, as in warmup_steps.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
    )
    max_nonfinite_steps: int = key(
        3,
        "Number of consecutive steps with a non-finite loss or gradient after which the run stops.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
        least=1,
    )
    spike_policy: str = key(
        "flag",
        "Treatment of a step whose loss or gradient norm lies far above the last 128 steps. flag lists it with its "
        "samples in skipped_steps.jsonl; skip also drops it; off compares nothing. One of flag, skip, off.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
        values=("flag", "skip", "off"),
    )
    spike_threshold: float = key(
        6.0,
        "Standard deviations above the mean of the last 128 steps (of logarithms) from which a step is a spike. The "
        "first 64 steps, and the first 64 after an unfreezing, are never spikes.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
        above=0,
    )
    num_checkpoints: int | None = key(
        None,
        "Number of evenly spaced checkpoints, the last at the end. Replaces save_steps.",
        resume=OnResume.FREE,
        runs=TRAIN,
        least=1,
        wanted="it must be at least 1 (save_strategy: no)",
        strategy=("save_strategy", "steps"),
    )
    # The data engine and its collator prepare the batches.
    max_length: int | None = None
    remove_unused_columns: bool | None = False
    dataset_kwargs: dict[str, Any] | None = field(default_factory=lambda: {"skip_prepare_dataset": True})

    def __post_init__(self):
        check_run(self)
        check_optimizer_name(self.optim)
        if not any(self.part_learning_rates().values()):
            raise ValueError("every part has learning rate 0, so nothing is trained: set learning_rate")
        if self.vision_learning_rate == 0 and self.unfreeze_vision_at_step:
            raise ValueError("unfreeze_vision_at_step has no effect with vision_learning_rate: 0")
        if self.spike_policy == "off" and self.spike_threshold != type(self).spike_threshold:
            raise ValueError("spike_threshold has no effect with spike_policy: off: leave it out")
        if self.load_best_model_at_end and self.num_checkpoints is not None:
            self.save_steps = self.eval_steps or self.logging_steps  # until it is counted; the best is always saved
        if uses_muon := self.optim == MUON:
            self.optim = DEFAULT_OPTIMIZER  # transformers does not know Muon
        super().__post_init__()
        if uses_muon:
            self.optim = MUON
        check_libraries(self)
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU: use bf16, which also works on a CPU")
        self.check_decay_steps()
        self.check_schedule(self.max_steps if self.max_steps > 0 else None)

    def check_decay_steps(self) -> None:
        """Refuse a decay without its schedule, and a schedule without its decay. Raises ValueError."""
        decays = self.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY
        given = "num_decay_steps" in schedule_options(self)
        if self.decay_steps is None:
            if decays and not given:
                raise ValueError("warmup_stable_decay needs decay_steps, such as 0.2 for the last fifth")
            return
        if not decays:
            kind = SchedulerType(self.lr_scheduler_type).value
            raise ValueError(f"decay_steps has no effect with {kind}: set lr_scheduler_type: warmup_stable_decay")
        if given:
            raise ValueError("decay_steps and lr_scheduler_kwargs.num_decay_steps exclude each other: give one")
        if self.decay_steps <= 0 or (self.decay_steps > 1 and self.decay_steps % 1):
            raise ValueError(f"decay_steps is {self.decay_steps}: give a share of the run below 1, or whole steps")

    def check_schedule(self, steps: int | None) -> None:
        """Try to build the schedule of a run; `steps` None = not known yet. Raises ValueError."""
        try_schedule(self, lambda optimizer: self.build_schedule(optimizer, steps or 10**9))

    def build_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the schedule of a run of this number of steps.

        Raises:
            ValueError: if warmup and decay overlap, so that the rate would jump.
            TypeError: for `lr_scheduler_kwargs` that the schedule does not have.
        """
        warmup, own = self.get_warmup_steps(steps), dict(schedule_options(self))
        if self.decay_steps is not None:
            of_the_run = max(1, round(steps * self.decay_steps))
            own["num_decay_steps"] = of_the_run if self.decay_steps < 1 else int(self.decay_steps)
        decay = own.get("num_decay_steps", 0)
        if warmup < steps < warmup + decay:  # a shorter run, such as a trial of a recipe, ends in the warmup
            raise ValueError(
                f"a warmup of {warmup:,} and a decay of {decay:,} steps do not fit into {steps:,} steps: give "
                "warmup_steps and decay_steps as shares of the run, such as 0.01 and 0.2"
            )
        return get_scheduler(self.lr_scheduler_type, optimizer, warmup, steps, own)

    def count_intervals(self) -> None:
        """Convert shares of the run and `num_checkpoints` to steps, once `max_steps` is known."""
        for name in ("eval_steps", "save_steps", "logging_steps"):
            share = getattr(self, name)
            if share is not None and share < 1:
                setattr(self, name, math.ceil(share * self.max_steps))
        if self.num_checkpoints is not None:
            self.save_strategy = SaveStrategy.STEPS
            self.save_steps = -(-self.max_steps // self.num_checkpoints)

    def part_learning_rates(self) -> dict[str, float]:
        """Return the peak learning rate of each part; 0 means frozen."""
        own = {
            "vision": self.vision_learning_rate,
            "connector": self.connector_learning_rate,
            "text": self.text_learning_rate,
        }
        return {part: self.learning_rate if rate is None else rate for part, rate in own.items()}


@dataclass
class DPOArguments(Defaults, DPOConfig):
    """TRL's DPOConfig, with samples that are never cut."""

    max_length: int | None = inherited_key(
        "max_length",
        1024,
        "Maximum tokens of a prompt with its answer. Longer ones are skipped and listed in skipped.jsonl.",
    )
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self):
        check_run(self)
        if self.learning_rate == 0:
            raise ValueError("learning_rate is 0: it must be positive")
        super().__post_init__()
        check_libraries(self)
        for name in self.loss_type:
            if name not in LOSSES:
                raise ValueError(
                    f"loss_type: unknown loss {name!r}{nearest(name, LOSSES)} (known: {', '.join(LOSSES)})"
                )
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: dpo evaluates only loss")
        steps = max(self.max_steps, 1000)
        of_some_run = (self.get_warmup_steps(steps), steps, schedule_options(self))
        try_schedule(self, lambda optimizer: get_scheduler(self.lr_scheduler_type, optimizer, *of_some_run))

    @property
    def evaluates(self) -> bool:
        return self.eval_strategy != IntervalStrategy.NO


def check_run(arguments: SFTConfig | DPOConfig) -> None:
    """Check the keys of `train` and `dpo` before transformers changes their values. Raises ValueError."""
    if arguments.output_dir is None:
        raise ValueError("output_dir is missing: name the folder of the run, e.g. output_dir: runs/my-run")
    refuse_inherited(arguments)
    check_values(arguments)
    check_best_metric(arguments)
    if arguments.max_steps == 0 or (arguments.max_steps < 0 and arguments.num_train_epochs <= 0):
        raise ValueError("max_steps and num_train_epochs leave no step to train")
    if arguments.bf16 is None:  # TRL would request it on machines without it
        arguments.bf16 = not arguments.fp16 and not arguments.use_cpu and is_torch_bf16_gpu_available()


def schedule_options(arguments: SFTConfig | DPOConfig) -> dict[str, Any]:
    """Return `lr_scheduler_kwargs`, which transformers has parsed if it was text."""
    options = arguments.lr_scheduler_kwargs
    return options if isinstance(options, dict) else {}


def try_schedule(arguments: SFTConfig | DPOConfig, build: Callable[[torch.optim.Optimizer], Any]) -> None:
    """Build a schedule. Raises ValueError for unknown `lr_scheduler_kwargs`."""
    try:
        build(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    except TypeError as error:  # of a function of transformers, about its arguments
        raise ValueError(f"lr_scheduler_kwargs {arguments.lr_scheduler_kwargs}: {error}") from error
