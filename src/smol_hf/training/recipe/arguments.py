"""Keys of a recipe that describe the training: those of TRL and transformers, and ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import get_scheduler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig, SFTConfig

from smol_hf.support.formatting import nearest
from smol_hf.training.recipe.inherited_checks import check_libraries, refuse_inherited
from smol_hf.training.recipe.inherited_keys import INHERITED
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, key

RATE = {
    "resume": OnResume.CHANGE, "least": 0, "wanted": "a learning rate is 0 (frozen) or positive",
}  # fmt: skip
IN_STEPS = {"resume": OnResume.CHANGE, "runs": Runs.CONVERSATIONS, "least": 0, "wanted": "a step is 0 or later"}
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


def inherited_key(name: str, default: Any, text: str) -> Any:
    """A field of an inherited key whose help is ours."""
    return field(default=default, metadata={"help": text, "key": INHERITED[name]})


@dataclass
class Defaults:
    """Inherited keys whose defaults differ from TRL's in `train` and `dpo`."""

    output_dir: str | None = inherited_key("output_dir", None, "Folder of checkpoints, logs and the result.")
    gradient_checkpointing: bool = False
    logging_steps: float = 10
    logging_first_step: bool = True
    disable_tqdm: bool | None = True
    report_to: list[str] | None = field(default_factory=lambda: ["none"])


@dataclass
class SmolTrainingArguments(Defaults, SFTConfig):
    """TRL's SFTConfig, with a learning rate for each part, the vision encoder's unfreezing, and a decay that is a
    share of the run."""

    vision_learning_rate: float | None = key(
        None, "Peak rate of the image encoder; 0 = frozen; learning_rate by default.", runs=Runs.CONVERSATIONS, **RATE
    )
    connector_learning_rate: float | None = key(
        None, "Peak rate of the connector; 0 = frozen; learning_rate by default.", runs=Runs.CONVERSATIONS, **RATE
    )
    text_learning_rate: float | None = key(
        None, "Peak rate of the language model; 0 = frozen; learning_rate by default.", runs=TRAIN, **RATE
    )
    unfreeze_vision_at_step: int = key(0, "The image encoder stays frozen before this step.", **IN_STEPS)
    vision_warmup_steps: int = key(
        0, "Steps over which the image encoder's rate rises from 0 after it was unfrozen.", **IN_STEPS
    )
    decay_steps: float | None = key(
        None,
        "Steps at the end over which the rate of lr_scheduler_type warmup_stable_decay falls; below 1 a share of the "
        "run, such as 0.2, as in warmup_steps.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
    )
    max_nonfinite_steps: int = key(
        3,
        "Steps in a row with a non-finite loss or gradient after which the run stops.",
        resume=OnResume.CHANGE,
        runs=TRAIN,
        least=1,
    )
    num_checkpoints: int | None = key(
        None,
        "Number of checkpoints, evenly spaced, the last at the end; instead of save_steps.",
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
        if self.learning_rate is None:
            raise ValueError("learning_rate is null: it needs a value")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: {RATE['wanted']}")
        if not any(self.part_learning_rates().values()):
            raise ValueError("every part has learning rate 0: there is nothing to train")
        if self.vision_learning_rate == 0 and self.unfreeze_vision_at_step:
            raise ValueError(
                "vision_learning_rate 0 freezes the encoder for good: unfreeze_vision_at_step has no effect"
            )
        super().__post_init__()
        check_libraries(self)
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU: a CPU would compute in float32 without a word; bf16 works on both")
        self.check_decay_steps()
        self.check_schedule(self.max_steps if self.max_steps > 0 else None)

    def check_decay_steps(self) -> None:
        """Raises ValueError for `decay_steps` without its schedule, for that schedule without a decay, and for a decay
        that is given twice."""
        decays = self.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY
        given = "num_decay_steps" in (self.lr_scheduler_kwargs or {})
        if self.decay_steps is None:
            if decays and not given:
                raise ValueError("lr_scheduler_type warmup_stable_decay needs decay_steps: 0.2 is the last fifth")
            return
        if not decays:
            kind = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
            raise ValueError(f"decay_steps belongs to lr_scheduler_type warmup_stable_decay, not to {kind}")
        if given:
            raise ValueError("decay_steps and lr_scheduler_kwargs.num_decay_steps say the same: give one of them")
        if self.decay_steps <= 0 or (self.decay_steps > 1 and self.decay_steps % 1):
            raise ValueError(f"decay_steps is {self.decay_steps}: a share of the run below 1, or a number of steps")

    def check_schedule(self, steps: int | None) -> None:
        """Build the schedule of a run of this number of steps, None = not known yet. Raises ValueError if it cannot
        be built."""
        try_schedule(self, lambda optimizer: self.build_schedule(optimizer, steps or 10**9))

    def build_schedule(self, optimizer: torch.optim.Optimizer, steps: int):
        """The scheduler of a run of this number of steps.

        Raises:
            ValueError: if warmup and decay overlap, so that the rate would jump.
            TypeError: for `lr_scheduler_kwargs` that the schedule does not have.
        """
        warmup, own = self.get_warmup_steps(steps), dict(self.lr_scheduler_kwargs or {})
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
        """Shares of the run and `num_checkpoints` in steps, once `max_steps` is known."""
        for name in ("eval_steps", "save_steps", "logging_steps"):
            share = getattr(self, name)
            if share is not None and share < 1:
                setattr(self, name, math.ceil(share * self.max_steps))
        if self.num_checkpoints is not None:
            self.save_strategy = SaveStrategy.STEPS
            self.save_steps = -(-self.max_steps // self.num_checkpoints)

    def part_learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each part; 0 means frozen."""
        own = {
            "vision": self.vision_learning_rate,
            "connector": self.connector_learning_rate,
            "text": self.text_learning_rate,
        }
        return {part: self.learning_rate if rate is None else rate for part, rate in own.items()}


@dataclass
class DPOArguments(Defaults, DPOConfig):
    """TRL's DPOConfig, in which nothing is cut."""

    max_length: int | None = inherited_key(
        "max_length", 1024, "Most tokens of a prompt with its answer; longer ones are left out, counted and named."
    )
    logging_nan_inf_filter: bool = False
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self):
        check_run(self)
        if self.learning_rate is None or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")
        super().__post_init__()
        check_libraries(self)
        for name in self.loss_type:
            if name not in LOSSES:
                raise ValueError(
                    f"loss_type: unknown loss {name!r}{nearest(name, LOSSES)} (there are {', '.join(LOSSES)})"
                )
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: an evaluation of dpo has loss")
        steps = max(self.max_steps, 1000)
        of_some_run = (self.get_warmup_steps(steps), steps, self.lr_scheduler_kwargs)
        try_schedule(self, lambda optimizer: get_scheduler(self.lr_scheduler_type, optimizer, *of_some_run))

    @property
    def evaluates(self) -> bool:
        return self.eval_strategy != IntervalStrategy.NO


def check_run(arguments: SFTConfig | DPOConfig) -> None:
    """Check the keys of `train` and `dpo` before transformers changes their values. Raises ValueError."""
    if arguments.output_dir is None:
        raise ValueError("output_dir is missing: say where the run goes, e.g. output_dir: runs/my-run")
    refuse_inherited(arguments)
    check_values(arguments)
    if arguments.max_steps == 0 or (arguments.max_steps < 0 and arguments.num_train_epochs <= 0):
        raise ValueError("max_steps and num_train_epochs leave no step to train")
    if arguments.bf16 is None:  # TRL would ask for it on machines that do not have it
        arguments.bf16 = not arguments.fp16 and not arguments.use_cpu and is_torch_bf16_gpu_available()


def try_schedule(arguments: SFTConfig | DPOConfig, build: Callable[[torch.optim.Optimizer], Any]) -> None:
    """Build a schedule. Raises ValueError for `lr_scheduler_kwargs` that it does not have."""
    try:
        build(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    except TypeError as error:  # of a function of transformers, about its arguments
        raise ValueError(f"lr_scheduler_kwargs {arguments.lr_scheduler_kwargs}: {error}") from error
