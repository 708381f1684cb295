"""The trainer's checkpoints: written under a temporary name with all that a run needs to resume, then renamed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from smol_hf.data.stream.stream import Plan
from smol_hf.training.checkpoint.checkpoints import (
    INCOMPLETE,
    OPTIMIZER_SHARDS,
    CheckpointError,
    move_into_place,
    write_manifest,
)
from smol_hf.training.loader import TrainingLoader, save_data_state
from smol_hf.training.log.counters import FILE_NAME as COUNTERS
from smol_hf.training.log.counters import RunCounters
from smol_hf.training.log.mixture_report import load_counters, save_mixture
from smol_hf.training.log.run_record import write_run
from smol_hf.training.model.plain_model import complete_modules, is_sharded, plain_class, plain_model

if TYPE_CHECKING:
    TrainerBase = Trainer
else:
    TrainerBase = object  # a mixin before the trainer's class

OF_THE_RECIPE = ("initial_lr", "weight_decay", "betas", "eps")  # of a group of the optimizer
OF_WRAPPERS = r"_orig_mod\.|_checkpoint_wrapped_module\."  # in names of parameters: of torch.compile, of checkpointing


class WholeCheckpoints(TrainerBase):
    """A mixin for transformers' `Trainer`: complete checkpoints with `run.json` and a manifest.

    Attributes:
        run_state: the content of `run.json`.
    """

    run_state: dict[str, Any]
    saving_to: Path | None = None

    def gather_state(self) -> Any:
        """Return the argument of `write_state`. All processes call this together."""

    def write_state(self, folder: Path, gathered: Any) -> None:
        """Write the further state that a resumed run needs."""

    def create_model_card(self, *args, **kwargs):
        """Write no card: publishing does."""

    def _get_output_dir(self, trial):
        return str(self.saving_to) if self.saving_to is not None else super()._get_output_dir(trial)

    def _save(self, output_dir=None, state_dict=None):
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not is_sharded(self) or isinstance(model, PeftModel) or not state_dict:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:  # transformers would save the changed class of FSDP2 with torch's code
            processor: Any = self.processing_class
            with complete_modules(self.args):
                model = plain_model(model, state_dict)
            for each in (model, processor):
                each.save_pretrained(str(output_dir))

    def describe_shards(self, folder: Path) -> None:
        """Write the configuration and the processor for sharded weights, which have neither."""
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        config, processor = model.config, cast(Any, self.processing_class)
        if isinstance(model, PeftModel):
            config = cast(Any, model.peft_config)[model.active_adapter]
        else:
            config.architectures = [plain_class(model).__name__]
        for each in (config, model.generation_config, processor):
            each.save_pretrained(str(folder))

    def _save_checkpoint(self, model, trial):
        run_dir = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        incomplete = run_dir / INCOMPLETE
        if self.args.should_save:
            shutil.rmtree(incomplete, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        gathered = self.gather_state()
        self.saving_to = incomplete
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.saving_to = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = incomplete / name
            if self.state.best_global_step:
                self.find_best()
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            if is_sharded(self) and not any(folder.glob("*.safetensors")):
                self.describe_shards(folder)
            self.write_state(folder, gathered)
            write_run(folder, self.run_state)
            processes = 0 if self.args.save_only_model else self.args.world_size
            write_manifest(folder, self.state.global_step, processes)
            move_into_place(folder, run_dir / name)
            incomplete.rmdir()
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def find_best(self) -> None:
        """Set the path of the best checkpoint, which follows from its step."""
        if self.state.best_global_step:
            name = f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(Path(str(self.args.output_dir)) / name)

    def _determine_best_metric(self, metrics, trial):
        # transformers saves with save_steps, so a better model between two saves would be lost.
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return is_best

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        state = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        self.find_best()
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and not Path(best).is_dir():
            raise CheckpointError(
                f"{best}, the best checkpoint of the run so far, is missing: restore it, or resume from an earlier "
                "checkpoint"
            )
        return state

    def _load_optimizer_and_scheduler(self, checkpoint):
        optimizer: Any = self.optimizer
        # The state of torch brings back the settings that it was saved with, but the recipe's settings count.
        groups = optimizer.param_groups if checkpoint is not None else []
        asked = [{key: group[key] for key in OF_THE_RECIPE if key in group} for group in groups]
        with requiring_gradients(self.model, optimizer, names_with_state(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        groups = optimizer.param_groups  # loading replaced them
        for group, values in zip(groups, asked, strict=True):
            group.update(values)
        schedule = self.lr_scheduler
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            schedule._last_lr = [
                base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas)
            ]
            for group, rate in zip(groups, schedule._last_lr):
                group["lr"] = rate


def names_with_state(checkpoint: str | None) -> set[str] | None:
    """Return the parameters with a saved state of the optimizer; None for a checkpoint without FSDP2."""
    folder = Path(checkpoint or "")
    if checkpoint is not None and (folder / OPTIMIZER_SHARDS).is_dir():
        places = FileSystemReader(folder / OPTIMIZER_SHARDS).read_metadata().planner_data
        return {path[2] for path in places.values() if path[:2] == ("optimizer", "state")}
    if checkpoint is not None and (folder / "optimizer.bin").is_file():
        return set(torch.load(folder / "optimizer.bin", mmap=True, weights_only=True)["state"])
    return None


@contextmanager
def requiring_gradients(model: Any, optimizer: Any, names: set[str] | None) -> Iterator[None]:
    """Let the optimizer's parameters of these names require gradients inside the context, and no others of it.

    torch's distributed checkpoint loads the states of such parameters only, and misses those that were not saved.
    None: change nothing.
    """
    optimised = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    before = []
    for name, weight in model.named_parameters():
        if names is not None and id(weight) in optimised:
            before.append((weight, weight.requires_grad))
            weight.requires_grad_(re.sub(OF_WRAPPERS, "", name) in names)
    try:
        yield
    finally:
        for weight, required in before:
            weight.requires_grad_(required)


class CheckpointsOfARun(WholeCheckpoints):
    """The state that `SmolTrainer` adds: counters and the position in the data."""

    counters: RunCounters
    loader: TrainingLoader | None
    plan: Plan

    def gather_state(self):
        assert self.loader is not None  # it is made before the first step
        return self.counters.gather(), gather_object([self.loader.state_dict()])

    def write_state(self, folder, gathered):
        totals, states = gathered
        (folder / COUNTERS).write_text(json.dumps(totals) + "\n", encoding="utf-8")
        save_mixture(folder, self.counters.planned, self.counters)
        save_data_state(folder, self.plan.lanes, states)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        self.counters.start_clock()

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        state = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is not None and self.loader is not None:
            self.counters.total = load_counters(Path(checkpoint), self.counters.planned)
            self.loader.batches = self.state.global_step * self.args.gradient_accumulation_steps
        self.counters.start_clock()
        return state
