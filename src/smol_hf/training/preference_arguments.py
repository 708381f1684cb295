"""The keys of a recipe that learns from preferences: those of TRL's `DPOConfig`, and where the preferences are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from transformers import get_scheduler
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig

from smol_hf.support.formatting import nearest
from smol_hf.training.argument_values import require_values
from smol_hf.training.inherited_checks import check_libraries, refuse_inherited

LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass
class PreferenceArguments:
    """Which preferences."""

    data: str = field(
        default="preferences.jsonl",
        metadata={
            "help": "Preferences (prompt, chosen, rejected): a file, folder or pattern of .jsonl, .json or .parquet, "
            "or owner/name on the Hub."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset of the Hub."})
    dataset_split: str | None = field(default=None, metadata={"help": "Its split; train by default."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit."})
    dataset_download: bool = field(default=False, metadata={"help": "Fetch its files first."})
    validation_data: str | None = field(
        default=None, metadata={"help": "Other preferences to evaluate on (eval_strategy says when)."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "Or this split of the same dataset of the Hub; with both, of validation_data."}
    )
    ignore_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of records or turns to train without, such as [tools]."},
    )
    on_bad_sample: str = field(
        default="stop", metadata={"help": "stop: a record that cannot be used is an error. skip: it is left out."}
    )
    max_skipped_fraction: float = field(
        default=0.01, metadata={"help": "With skip: more unusable records than this share stop the run."}
    )
    max_skipped_in_a_row: int = field(
        default=100, metadata={"help": "With skip: so many unusable records with no good one between stop the run."}
    )

    def __post_init__(self):
        require_values(self)
        if self.on_bad_sample not in ("stop", "skip"):
            raise ValueError(f"on_bad_sample is {self.on_bad_sample!r}: choose stop or skip")
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ValueError(f"max_skipped_fraction is {self.max_skipped_fraction}: it is a share from 0 to 1")
        if self.max_skipped_in_a_row < 1:
            raise ValueError(f"max_skipped_in_a_row is {self.max_skipped_in_a_row}: it must be at least 1")

    @property
    def validates(self) -> bool:
        return self.validation_data is not None or self.validation_split is not None


@dataclass
class DPOArguments(DPOConfig):
    """TRL's DPOConfig, in which nothing is cut."""

    output_dir: str | None = field(default=None, metadata={"help": "Where checkpoints, logs and the result go."})
    # What differs from DPOConfig's defaults.
    max_length: int | None = field(
        default=1024,
        metadata={"help": "Most tokens of a prompt with its answer; longer ones are left out, counted and named."},
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass: less memory, slower."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay false."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "The log shows progress; no bar is drawn."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Page-locked batches, where there is a GPU."}
    )
    report_to: list[str] | None = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard; none by default."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("output_dir is missing: say where the run goes, e.g. output_dir: runs/my-run")
        refuse_inherited(self)
        if self.learning_rate is None or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("max_steps and num_train_epochs leave no step to train")
        if self.bf16 is None:  # DPOConfig would ask for it on machines that do not have it
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        super().__post_init__()
        check_libraries(self)
        self.check_losses()
        self.check_schedule()

    def check_losses(self) -> None:
        """Raises ValueError for losses, divergences and metrics that TRL does not have."""
        for name in self.loss_type:
            if name not in LOSSES:
                raise ValueError(
                    f"loss_type: unknown loss {name!r}{nearest(name, LOSSES)} (there are {', '.join(LOSSES)})"
                )
        if self.f_divergence_type not in DIVERGENCES:
            raise ValueError(
                f"f_divergence_type is {self.f_divergence_type!r}: choose one of {', '.join(DIVERGENCES)}"
            )

        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: an evaluation of dpo has loss")

    def check_schedule(self) -> None:
        """Build the schedule of some run. Raises ValueError for `lr_scheduler_kwargs` that it does not have."""
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        steps = max(self.max_steps, 1000)
        try:
            get_scheduler(
                self.lr_scheduler_type, optimizer, self.get_warmup_steps(steps), steps, self.lr_scheduler_kwargs
            )
        except TypeError as error:
            raise ValueError(f"lr_scheduler_kwargs {self.lr_scheduler_kwargs}: {error}") from error

    @property
    def evaluates(self) -> bool:
        return self.eval_strategy != IntervalStrategy.NO
