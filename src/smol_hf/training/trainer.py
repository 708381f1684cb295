"""TRL's `SFTTrainer` with what vision-language training needs in addition."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy
from trl.trainer.sft_trainer import SFTTrainer

from smol_hf.data.mixture.shares import PlannedMixture
from smol_hf.data.report.shortened_samples import ShortenedSamples
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.training.checkpoint.saving import CheckpointsOfARun
from smol_hf.training.loader import FACTS, TrainingLoader, summed, to_device, without_mask
from smol_hf.training.log.counters import RunCounters
from smol_hf.training.log.first_batches import FirstBatches
from smol_hf.training.log.skipped_steps import SkippedSteps, Step
from smol_hf.training.model.new_tokens import freeze_schedule, train_rows_of_new_tokens
from smol_hf.training.model.parts import FreezeCallback, group_part, parameter_groups, schedule_parts
from smol_hf.training.optimizer.choice import build_optimizer, optimizer_class
from smol_hf.training.optimizer.muon import MUON, muon_weights
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.validation.early_stopping import validated_at
from smol_hf.training.validation.measure import Seen, Validation

# TRL and transformers need a dataset, but the rows come from the plan.
PLACEHOLDER = Dataset.from_dict({"sample_id": ["the rows come from the plan"]})


class SmolTrainer(CheckpointsOfARun, SFTTrainer):
    """The trainer of supervised runs.

    It adds to `SFTTrainer`:

    - the model's own loss (logits at labelled positions only), divided by the labelled tokens of the whole step;
    - a learning rate for each part, and parts that are frozen at first (`model/parts.py`);
    - counters and rates in the log (`log/counters.py`);
    - complete checkpoints (`checkpoint/saving.py`);
    - steps that change nothing, because their loss or gradient is not finite or a spike (`log/skipped_steps.py`).

    Args:
        plan: of the rows that are trained on.
        data_states: states of its lanes to resume from (see `loader.load_data_state`).
        rows_per_epoch: rows of an epoch; by default the whole run is one.
        run_state: the content of `run.json` in each checkpoint.
        skipped: collects the samples that are left out during the training.
        shortened: collects the samples that were shortened to fit the context.
        mixture: the planned mixture; by default that of the plan.
        validation: measured by `evaluate`.
    """

    args: SmolTrainingArguments
    model: PreTrainedModel
    data_collator: Any
    # The model divides by `num_items_in_batch`, which covers the whole accumulation window.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model,
        args: SmolTrainingArguments,
        plan: Plan,
        data_states: dict[int, dict] | None = None,
        rows_per_epoch: int | None = None,
        run_state: dict | None = None,
        skipped: SkippedSamples | None = None,
        shortened: ShortenedSamples | None = None,
        mixture: PlannedMixture | None = None,
        validation: Validation | None = None,
        max_unknown: float | None = None,
        **kwargs,
    ):
        self.freeze_schedule = freeze_schedule(args, model)
        # TRL rounds all trained weights of a quantised model to bfloat16, a connector without adapters too.
        unrounded = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
        args.ignore_data_skip = True  # the loader goes on where it was: nothing is read again to get there
        held_out = PLACEHOLDER if validation is not None else None
        super().__init__(model=model, args=args, train_dataset=PLACEHOLDER, eval_dataset=held_out, **kwargs)
        self.validation = validation
        self.plan, self.data_states, self.rows_per_epoch = plan, data_states or {}, rows_per_epoch
        self.loader: TrainingLoader | None = None
        for name, weight in self.model.named_parameters():
            if name in unrounded and weight.dtype != unrounded[name].dtype:
                weight.data = unrounded[name].to(weight.device)
        del unrounded
        self.vectors = {name for name, weight in self.model.named_parameters() if weight.ndim < 2}
        train_rows_of_new_tokens(self.model, self.freeze_schedule)
        self.add_callback(FreezeCallback(self.freeze_schedule))
        self.run_state = run_state or {}
        self.skipped = SkippedSamples() if skipped is None else skipped
        self.shortened = ShortenedSamples() if shortened is None else shortened
        self.counters = RunCounters(self.accelerator, mixture or PlannedMixture.of_plan(plan))
        prints = self.is_world_process_zero()
        self.first_batches = FirstBatches(args.max_steps, args.gradient_accumulation_steps, prints, max_unknown)
        self.skipped_steps = SkippedSteps(args, self.counters, writes=prints)
        self.add_callback(self.skipped_steps)
        self.step_loss = torch.zeros((), device=args.device)
        self.step_sample_ids: list[str] = []
        self.met: list[tuple] = []  # of each batch since `exchange_met`: used, drawn, skipped, shortened
        self.data_ended = False
        self.window_losses: list[float] = []
        self.rates_used: dict[str, float] = {}  # of each part, in the last step

    def get_train_dataloader(self):
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        steps = -(-self.rows_per_epoch // rows) if self.rows_per_epoch else self.args.max_steps
        stream = RowStream(
            self.plan,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.args.dataloader_num_workers,
            dict(self.data_states),
        )
        self.loader = TrainingLoader(
            stream,
            lambda samples: self.data_collator(samples),
            batch_size=self.args.train_batch_size,
            batches_per_epoch=steps * self.args.gradient_accumulation_steps,
            total_batches=self.args.max_steps * self.args.gradient_accumulation_steps,
            ahead=self.args.device.type == "cuda",
        )
        return self.loader

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        facts = {name: inputs.pop(name) for name in FACTS}
        sample_ids = facts["sample_ids"]
        if model.training:
            self.counters.add(facts["counts"], inputs["input_ids"].numel(), len(facts["shortened"]))
            self.step_sample_ids += sample_ids
            self.met.append((len(sample_ids), facts["drawn"], facts["skipped"], facts["shortened"]))
            self.data_ended = facts["finished"]
            self.first_batches.look(self.processing_class, inputs, sample_ids, num_items_in_batch)
        outputs = model(**without_mask(inputs), use_cache=False, num_items_in_batch=num_items_in_batch)
        loss = outputs.loss
        if model.training and facts["sources"] is not None and outputs.get("token_losses") is not None:
            self.counters.add_losses(outputs.token_losses, inputs, facts["sources"])
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The count covers all processes, but DDP averages their gradients.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _prepare_input(self, data):
        if isinstance(data, torch.Tensor):
            return to_device(data, self.args.device, self.args.torch_compile)
        return super()._prepare_input(data)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss += loss
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Log and return the metrics of `validation` with the prefix: `eval_loss` and so on."""
        assert self.validation is not None  # or nothing asks for an evaluation
        model = self.model_wrapped if self.is_in_train else self.model
        started = time.perf_counter()
        rows = self.args.per_device_eval_batch_size
        seen = Seen()
        measured = self.validation.measure(model, self.accelerator, self.data_collator, rows, seen)
        for each in gather_object([seen]):
            self.skipped.note(each.used, each.skipped)
            self.shortened.note(each.shortened)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.counters.start_clock()
        return metrics

    @property
    def validated(self) -> dict[str, float] | None:
        """Return the metrics of the validation of the result: of the best step if it is loaded, else of the last."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return validated_at(self.state, best or self.state.global_step)

    def _get_grad_norm(self, model, grad_norm=None):
        """Close the step: called once, after the gradients are complete and before the optimizer uses them."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self.rates_used = {group_part(group): group["lr"] for group in self.optimizer.param_groups}
        named = sum(len(skipped) + len(shortened) for _, _, skipped, shortened in self.met)
        facts = torch.tensor([len(self.step_sample_ids), named, not self.data_ended], dtype=self.step_loss.dtype)
        norm: Any = getattr(grad_norm, "full_tensor", lambda: grad_norm)()  # the same in all processes
        facts = to_device(facts, self.step_loss.device)
        facts = torch.cat([self.step_loss.view(1), torch.as_tensor(norm, device=facts.device).view(1), facts])
        loss, norm, samples, named, unfinished = summed(self.accelerator, facts)  # the only wait for the device
        processes, scaler = self.accelerator.num_processes, self.accelerator.scaler  # the scaler of float16
        step = Step(
            number=self.state.global_step + 1,
            loss=loss / processes,
            norm=norm / processes,
            complete=unfinished == processes,
            scales=scaler is not None and scaler.get_scale() > 1,
        )
        self.exchange_met(named > 0)
        self.counters.close_step(math.isfinite(step.loss))
        if samples and math.isfinite(step.loss):
            self.window_losses.append(step.loss)
        if self.state.global_step == self.freeze_schedule.unfreeze_vision_at_step:
            self.skipped_steps.forget()
        if not samples or not self.skipped_steps.uses(step, self.step_sample_ids):
            model.zero_grad()  # an optimizer leaves parameters without gradients, and their moments, unchanged
        if not unfinished:  # every lane of every process gave all that it has
            self.control.should_training_stop = self.control.should_log = True
            self.control.should_save = self.args.save_strategy == SaveStrategy.STEPS
        self.step_loss = torch.zeros_like(self.step_loss)
        self.step_sample_ids = []
        return grad_norm

    def exchange_met(self, named: bool) -> None:
        """Share what was read since the last exchange if samples are to be named, so that all processes stop together.

        Otherwise keep the sums.
        """
        if not named:
            self.met = [(sum(used for used, *_ in self.met), sum((each[1] for each in self.met), Counter()), [], [])]
            return
        for used, drawn, skipped, shortened in gather_object(self.met):
            self.skipped.note(used, skipped, drawn)
            self.shortened.note(shortened)
        self.met = []

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            model = self.model if model is None else model
            groups = parameter_groups(
                model.named_parameters(),
                set(self.get_decay_parameter_names(model)),
                self.args.weight_decay,
                self.freeze_schedule,
                muon_weights(model) if self.args.optim == MUON else frozenset(),
            )
            if not groups:
                raise ValueError("every part has learning rate 0: there is nothing to train")
            chosen = self.optimizer_cls_and_kwargs or optimizer_class(self.args, model)
            self.optimizer = build_optimizer(chosen, groups, model)
        return self.optimizer

    def get_decay_parameter_names(self, model):
        """Return the names of the matrices: scales, class tokens and other vectors get no weight decay."""
        return [name for name in super().get_decay_parameter_names(model) if name not in self.vectors]

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = self.args.build_schedule(optimizer, num_training_steps)
            self._created_lr_scheduler = True
            schedule_parts(self.lr_scheduler, self.freeze_schedule)
        return self.lr_scheduler

    def _issue_warnings_after_load(self, load_result):
        # A tied head is not in the file: nothing is missing.
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or {})
        if set(load_result.missing_keys) - tied or load_result.unexpected_keys:
            super()._issue_warnings_after_load(load_result)

    def log(self, logs, start_time=None):
        # transformers counts the epoch, and its mean loss at the end, from where a resumed run began.
        assert self.loader is not None
        self.state.epoch = self.state.global_step * self.args.gradient_accumulation_steps / len(self.loader)
        logs.pop("train_loss", None)
        if "loss" in logs:
            finite = self.window_losses
            logs["loss"] = sum(finite) / len(finite) if finite else math.nan
            self.window_losses = []
            del logs["learning_rate"]
            for part, rate in self.rates_used.items():  # the scheduler has the next step's already
                logs[f"learning_rate_{part}"] = rate
            logs.update(self.counters.log_entries())
        super().log(logs, start_time)
