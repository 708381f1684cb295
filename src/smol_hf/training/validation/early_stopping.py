"""The best checkpoint and early stopping, which continue exactly after a kill or a signal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from smol_hf.support.formatting import counted, nearest
from smol_hf.training.recipe.values import RecipeError


class EarlyStopping(EarlyStoppingCallback):
    """transformers' callback. A resumed run continues its count of validations without a better metric.

    transformers would restore the callbacks of a checkpoint with their old settings, and the decision to save or stop.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        super().on_evaluate(args, state, control, metrics, **kwargs)
        control.should_log |= control.should_training_stop  # the last counters, whatever logging_steps is


def early_stopping(arguments: Any) -> list[TrainerCallback]:
    """Return the callback of `early_stopping_patience`, if it is set."""
    patience = arguments.early_stopping_patience
    return [] if patience is None else [EarlyStopping(patience, arguments.early_stopping_threshold)]


def has_stopped(checkpoint: Path | None, arguments: Any) -> bool:
    """Return True if early stopping ended the run that saved this checkpoint."""
    if checkpoint is None or arguments.early_stopping_patience is None:
        return False
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    saved = state["stateful_callbacks"].get(EarlyStopping.__name__)
    return (
        saved is not None
        and saved["attributes"]["early_stopping_patience_counter"] >= arguments.early_stopping_patience
    )


class MissedValidation(TrainerCallback):
    """Validates at the start of a resumed run if a signal had stopped it in the step of a validation."""

    def __init__(self, trainer: Trainer):
        self.trainer: Any = trainer
        self.ends_run = False  # the validation used up the patience

    def on_train_begin(self, args, state, control, **kwargs):
        step, trainer = state.global_step, self.trainer
        if step == 0 or not self.is_due(args, state) or validated_at(state, step) is not None:
            return
        metrics = trainer._evaluate(None, None, skip_scheduler=True)
        trainer._determine_best_metric(metrics, None)
        trainer.find_best()
        if control.should_training_stop and (loader := getattr(trainer, "loader", None)) is not None:
            loader.total_batches = loader.batches  # the loop looks only after a step
            self.ends_run = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.ends_run:  # of an epoch without a step
            control.should_evaluate = control.should_save = False

    def is_due(self, args, state) -> bool:
        if args.eval_strategy == IntervalStrategy.EPOCH:
            return state.epoch == int(state.epoch) and args.eval_delay <= state.epoch
        at_end = state.global_step >= state.max_steps
        every = args.eval_strategy == IntervalStrategy.STEPS and (at_end or state.global_step % state.eval_steps == 0)
        return every and args.eval_delay <= state.global_step


def validated_at(state, step: int) -> dict[str, float] | None:
    """Return the metrics of the last validation in this step, without their prefix; None if there was none."""
    found = [entry for entry in state.log_history if entry.get("step") == step and "eval_loss" in entry]
    measured = {name[5:]: value for entry in found[-1:] for name, value in entry.items() if name.startswith("eval_")}
    measured.pop("seconds", None)
    return measured or None


def refuse_needed_validation(arguments: Any) -> None:
    """Refuse a run that needs a validation and has no sample for it. Raises RecipeError."""
    needs = {
        "load_best_model_at_end": arguments.load_best_model_at_end,
        "save_strategy: best": arguments.save_strategy == SaveStrategy.BEST,
    }
    if names := [name for name, is_set in needs.items() if is_set]:
        raise RecipeError(f"{names[0]} needs a sample to validate on, but none is usable: raise eval_fraction")


def check_metric(arguments: Any, known: Sequence[str]) -> None:
    """Refuse a `metric_for_best_model` that the validation does not measure. Raises RecipeError."""
    metric = (arguments.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in known:
        raise RecipeError(
            f"metric_for_best_model is {metric!r}{nearest(metric, known)} (this run measures {', '.join(known)})"
        )


def best_of(state, arguments: Any) -> dict[str, Any]:
    """Return `best` with the step that is the result, its metric and value, if the run loads the best step."""
    if not (arguments.load_best_model_at_end and state.best_global_step):
        return {}
    metric, value = arguments.metric_for_best_model, state.best_metric
    return {"best": {"step": state.best_global_step, "metric": metric, "value": value}}


def describe_end(state, arguments: Any) -> list[str]:
    """Say that a run stopped early, and which step is its result."""
    lines, metric, patience = [], arguments.metric_for_best_model, arguments.early_stopping_patience
    if patience is not None and state.global_step < state.max_steps:
        lines.append(
            f"stopped early, at step {state.global_step:,} of {state.max_steps:,}: no better {metric} in "
            f"{counted(patience, 'validation')}"
        )
    if best := best_of(state, arguments).get("best"):
        lines.append(f"the result is the best step, {best['step']:,}, with {metric} {best['value']:.4f}")
    return lines
