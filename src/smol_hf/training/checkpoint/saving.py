"""The trainer's checkpoints: written beside their place with all that a run needs to go on, and renamed when whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from smol_hf.training.checkpoint.checkpoints import INCOMPLETE, publish, write_manifest
from smol_hf.training.loader import save_data_state
from smol_hf.training.log.counters import Counters
from smol_hf.training.log.mixture_report import load_counters, save_mixture

OF_THE_RECIPE = ("initial_lr", "weight_decay", "betas", "eps")  # of a group of the optimizer


class WholeCheckpoints:
    """For a `Trainer` of transformers: each checkpoint is written beside its place, with `run.json` and a manifest,
    and renamed. `run_state` is what `run.json` holds."""

    run_state: dict[str, Any]
    saving_to: Path | None = None

    def gather_state(self) -> Any:
        """What `write_state` needs of all processes, which call this together."""

    def write_state(self, folder: Path, gathered: Any) -> None:
        """Write what else the run needs to go on."""

    def create_model_card(self, *args, **kwargs):
        """The card is written with the published checkpoint, from what is known of the model then."""

    def _get_output_dir(self, trial):
        return str(self.saving_to) if self.saving_to is not None else super()._get_output_dir(trial)

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
                self.state.best_model_checkpoint = str(run_dir / f"checkpoint-{self.state.best_global_step}")
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            self.write_state(folder, gathered)
            (folder / "run.json").write_text(json.dumps(self.run_state, indent=1) + "\n", encoding="utf-8")
            write_manifest(folder, self.state.global_step)
            publish(folder, run_dir / name)
            incomplete.rmdir()
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        # A checkpoint of torch brings back the settings too, with which it was saved: the recipe's count.
        asked = [{key: group[key] for key in OF_THE_RECIPE if key in group} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_deepspeed_enabled:
            return
        for group, values in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(values)
        schedule = self.lr_scheduler
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
            schedule._last_lr = [
                base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas)
            ]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr):
                group["lr"] = rate


class CheckpointsOfARun(WholeCheckpoints):
    """What `SmolTrainer` adds: counters, the place in the data, and parts that are frozen at first."""

    def gather_state(self):
        counters, _ = self.books.gather(), self.source_books.gather()
        return counters, gather_object([self.loader.state_dict()])

    def write_state(self, folder, gathered):
        counters, places = gathered
        counters.save(folder)
        save_mixture(folder, self.source_books.planned, self.source_books)
        save_data_state(folder, self.plan.lanes, places)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        self.books.start_clock()

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        state = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            self.books.total = Counters.load(folder)
            self.source_books.total = load_counters(folder, self.source_books.planned)
            self.loader.batches = self.state.global_step * self.args.gradient_accumulation_steps
        self.books.start_clock()
        return state

    def _load_optimizer_and_scheduler(self, checkpoint):
        # What is frozen at the step resumed to must be so before the optimizer's state is loaded (FSDP2).
        if checkpoint is not None:
            self.freeze_schedule.apply(self.model, self.state.global_step)
        super()._load_optimizer_and_scheduler(checkpoint)
