"""One run from a recipe: data → model → training → published checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from rich.console import Console
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.training.checkpoint.checkpoints import choose_checkpoint, step_of
from smol_hf.training.checkpoint.interruption import train_until_stopped
from smol_hf.training.checkpoint.same_run import check_same_run, settings_for_resume
from smol_hf.training.log.run_record import hardware, versions, write_run
from smol_hf.training.model.parts import count_parameters
from smol_hf.training.preference import PreferenceTask
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.supervised import ConversationTask, DocumentTask
from smol_hf.training.task import Task


class Run:
    """A run in four steps: `setup`, `load_data`, `build_model`, `fit`. All processes take them together.

    A run writes into `output_dir`: `recipe.yaml` (resolved), `run.json` (versions, seed, data fingerprint, training
    time), `mixture.json` (planned and realised shares), `log.jsonl`, `checkpoint-<step>/`, and if needed
    `skipped.jsonl`, `shortened.jsonl` and `skipped_steps.jsonl`.

    Args:
        recipe: keys and values as the user gave them.
        arguments: of the training. Their class and the key `documents` decide the `Task` of the run.
    """

    checkpoint: Path | None
    model: PreTrainedModel
    processor: Any  # of a text-only model its tokenizer
    run_state: dict[str, Any]  # content of `run.json`

    def __init__(
        self,
        recipe: dict[str, Any],
        model_arguments: ModelArguments,
        data_arguments: DataArguments | PreferenceArguments,
        arguments: SmolTrainingArguments | DPOArguments,
    ):
        self.recipe, self.arguments = recipe, arguments
        self.model_arguments, self.data_arguments = model_arguments, data_arguments
        self.output_dir = Path(str(arguments.output_dir))
        self.console = Console(highlight=False, markup=False)
        self.is_main_process = PartialState().is_main_process
        self.task: Task = task_class(data_arguments)(self)

    def setup(self) -> None:
        """Check the keys, choose the checkpoint to resume from, set the seed, and begin the list of skipped samples.

        Raises:
            RecipeError: for keys that contradict each other. CheckpointError: if no checkpoint can be resumed.
        """
        self.task.check()
        self.checkpoint, messages = choose_checkpoint(self.output_dir, self.arguments.resume_from_checkpoint)
        for message in messages if self.is_main_process else ():
            self.console.print(message)
        set_seed(self.arguments.seed)
        self.skipped = SkippedSamples(
            self.data_arguments.on_bad_sample,
            self.data_arguments.max_skipped_fraction,
            self.output_dir / "skipped.jsonl",
            writes=self.is_main_process,
            keeps_earlier=self.checkpoint is not None,
            max_in_a_row=self.data_arguments.max_skipped_in_a_row,
            gives_up=getattr(self.data_arguments, "on_failed_source", None) == "reweight",
        )

    def load_data(self) -> None:
        """Open the sources of the data. Raises RecipeError, SampleError, FileNotFoundError."""
        with recipe_errors("the data cannot be built"):
            self.task.open()

    def build_model(self) -> None:
        """Build or load `model` and `processor`. Raises RecipeError."""
        if self.is_main_process and self.model_arguments.model is None and self.model_arguments.tokenizer is None:
            self.console.print("no tokenizer is named: training one on the texts of the data")
        with recipe_errors("the model cannot be built"):
            self.model, self.processor = self.task.build()

    def fit(self, publish: Callable[[Run, Trainer], None] | None = None) -> Trainer:
        """Measure the data, train from the beginning or from the checkpoint, and publish the result.

        Args:
            publish: called with the run and the trainer in the main process, after the training.

        Raises:
            RecipeError, SampleError, CheckpointError, NonFiniteError: the message says what to do.
            Interrupted: after a signal ended the training and a checkpoint was saved.
        """
        self.task.measure()
        self.run_state = {
            **self.task.facts(),
            "seed": self.arguments.seed,
            **settings_for_resume(self.model_arguments, self.data_arguments, self.arguments),
            "versions": versions(),
        }
        changes = check_same_run(self.checkpoint, self.run_state) if self.checkpoint is not None else []
        trainer: Any = self.task.trainer()
        trainer.remove_callback(PrinterCallback)
        if self.arguments.disable_tqdm:
            trainer.remove_callback(ProgressCallback)
        counts = count_parameters(trainer.model)
        resumed_at = step_of(self.checkpoint) if self.checkpoint is not None else 0  # rotation may delete it
        if self.is_main_process:
            self.task.announce(trainer, counts, [f"changed from step {resumed_at:,} on: {each}" for each in changes])
            self.output_dir.mkdir(parents=True, exist_ok=True)
            resolved = yaml.safe_dump(self.task.resolved(), sort_keys=False)
            (self.output_dir / "recipe.yaml").write_text(resolved, encoding="utf-8")
            write_run(self.output_dir, self.run_state)
            self.task.save_shares()

        started = time.perf_counter()
        train_until_stopped(trainer, self.checkpoint)
        self.run_state |= {
            "train_seconds": time.perf_counter() - started,
            "steps": trainer.state.global_step,
            "resumed_at_step": resumed_at,
            "hardware": hardware(),
            "parameters": {part: count["total"] for part, count in counts.items()},
        }
        self.run_state |= self.task.finish(trainer)
        if self.is_main_process:
            write_run(self.output_dir, self.run_state)
            self.task.save_shares(trainer)
        if publish is not None:
            if trainer.state.global_step == 0:
                raise RecipeError("no step was trained: there is nothing to publish")
            trainer.accelerator.wait_for_everyone()
            if self.is_main_process:
                publish(self, trainer)
        return trainer


def task_class(data_arguments: DataArguments | PreferenceArguments) -> type[Task]:
    """Return the class of the task for these keys."""
    if isinstance(data_arguments, PreferenceArguments):
        return PreferenceTask
    return ConversationTask if data_arguments.documents is None else DocumentTask


def train(recipe, model_arguments, data_arguments, arguments, publish=None) -> Trainer:
    """Take the four steps of a `Run`, and return the trainer with the trained model."""
    run = Run(recipe, model_arguments, data_arguments, arguments)
    run.setup()
    run.load_data()
    run.build_model()
    return run.fit(publish)
