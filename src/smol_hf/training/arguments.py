"""The keys of a recipe that say how it trains: those of TRL's `SFTConfig`, so of transformers, and ours.

Those of the model and of the data are in modules of their own; `recipes.py` reads all three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import get_scheduler
from transformers.trainer_utils import SaveStrategy, SchedulerType
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from smol_hf.training.inherited_checks import check_libraries, refuse_inherited


@dataclass
class SmolTrainingArguments(SFTConfig):
    """TRL's SFTConfig, with a learning rate for each part, the vision encoder's unfreezing, and a decay that is a
    share of the run."""

    output_dir: str | None = field(default=None, metadata={"help": "Where checkpoints, logs and the result go."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the image encoder; 0 = frozen; learning_rate by default."}
    )
    connector_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the connector; 0 = frozen; learning_rate by default."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the language model; 0 = frozen; learning_rate by default."}
    )
    unfreeze_vision_at_step: int = field(
        default=0, metadata={"help": "The image encoder stays frozen before this step."}
    )
    vision_warmup_steps: int = field(
        default=0, metadata={"help": "Steps over which its rate rises from 0 after it was unfrozen."}
    )
    decay_steps: float | None = field(
        default=None,
        metadata={
            "help": "Steps at the end over which the rate of lr_scheduler_type warmup_stable_decay falls; below 1 a "
            "share of the run, such as 0.2, as in warmup_steps."
        },
    )
    max_nonfinite_steps: int = field(
        default=3, metadata={"help": "Steps in a row with a non-finite loss or gradient after which the run stops."}
    )
    num_checkpoints: int | None = field(
        default=None,
        metadata={"help": "So many checkpoints, evenly spaced, the last at the end; instead of save_steps."},
    )
    # What differs from SFTConfig's defaults, since our collator prepares the batches.
    max_length: int | None = field(default=None, metadata={"help": "Not used: see context_length."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must stay false."})
    dataset_kwargs: dict[str, Any] | None = field(
        default_factory=lambda: {"skip_prepare_dataset": True}, metadata={"help": "Must skip TRL's preparation."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass: less memory, slower."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "The log shows progress; no bar is drawn."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    report_to: list[str] | None = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard; none by default."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("output_dir is missing: say where the run goes, e.g. output_dir: runs/my-run")
        refuse_inherited(self)
        if self.learning_rate is None:
            raise ValueError("learning_rate is null: it needs a value")
        for name in ("vision_learning_rate", "connector_learning_rate", "text_learning_rate", "learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"{name} is {rate}: a learning rate is 0 (frozen) or positive")
        if not any(self.part_learning_rates().values()):
            raise ValueError("every part has learning rate 0: there is nothing to train")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("max_steps and num_train_epochs leave no step to train")
        for name in ("unfreeze_vision_at_step", "vision_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: a step is 0 or later")
        if self.num_checkpoints is not None and self.num_checkpoints < 1:
            raise ValueError(f"num_checkpoints is {self.num_checkpoints}: it must be at least 1 (save_strategy: no)")
        if self.max_nonfinite_steps < 1:
            raise ValueError(f"max_nonfinite_steps is {self.max_nonfinite_steps}: it must be at least 1")
        if self.vision_learning_rate == 0 and self.unfreeze_vision_at_step:
            raise ValueError(
                "vision_learning_rate 0 freezes the encoder for good: unfreeze_vision_at_step has no effect"
            )
        if self.bf16 is None:  # SFTConfig would ask for it on machines that do not have it
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        super().__post_init__()
        check_libraries(self)
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16 needs a GPU: a CPU would compute in float32 without a word; bf16 works on both")
        self.check_decay_steps()
        self.check_schedule(self.max_steps if self.max_steps > 0 else None)

    def check_decay_steps(self) -> None:
        """Raises ValueError for `decay_steps` without its schedule, for the schedule without any, and for both ways
        to say it at once."""
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
        """Whether the schedule can be built for a run of so many steps, None = not known yet. Raises ValueError."""
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        try:
            self.build_schedule(optimizer, steps or 10**9)
        except TypeError as error:  # of a function of transformers, about its arguments
            raise ValueError(f"lr_scheduler_kwargs {self.lr_scheduler_kwargs}: {error}") from error

    def build_schedule(self, optimizer: torch.optim.Optimizer, steps: int):
        """The scheduler of a run of so many steps.

        Raises:
            ValueError: where warmup and decay overlap, so that the rate would jump.
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
