"""One run from a recipe: data → model → training → published checkpoint."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from rich.console import Console
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.support.tables import print_parts
from smol_hf.training.checkpoint.checkpoints import CheckpointError, choose_checkpoint, step_of
from smol_hf.training.checkpoint.interruption import train_until_stopped
from smol_hf.training.checkpoint.same_run import check_same_run, settings_for_resume, settings_of_a_process
from smol_hf.training.log.processes import (
    describe_processes,
    in_main_process,
    refuse_other_layout,
    refuse_other_strategy,
    refuse_unequal_processes,
)
from smol_hf.training.log.run_record import hardware, resolve_recipe, versions, write_run
from smol_hf.training.model.parts import count_parameters
from smol_hf.training.model.plain_model import Tensors, complete_modules, gather_model
from smol_hf.training.recipe.data_arguments import PreferenceArguments
from smol_hf.training.recipe.inherited_checks import settle_global_batch
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.validation.early_stopping import MissedValidation, has_stopped

OF_A_RUN = ("run.json", "recipe.yaml")  # files of an output folder


class Run(ABC):
    """A run in four steps: `setup`, `load_data`, `build_model`, `fit`. All processes take them together.

    A run writes into `output_dir`: `recipe.yaml` (resolved), `run.json` (versions, seed, data fingerprint, training
    time), `mixture.json` (planned and realised shares), `log.jsonl`, `checkpoint-<step>/`, and if needed
    `skipped.jsonl`, `shortened.jsonl` and `skipped_steps.jsonl`.

    The steps call the abstract methods, which depend on the kind of the data, in the order below.

    Args:
        recipe: keys and values as the user gave them.
    """

    checkpoint: Path | None
    model: PreTrainedModel
    processor: Any  # of a text-only model its tokenizer
    run_state: dict[str, Any]  # content of `run.json`
    ends_with_the_data = False  # True if `max_steps` was counted, not asked for

    def __init__(self, recipe: dict[str, Any], model_arguments: ModelArguments, data_arguments: Any, arguments: Any):
        self.recipe, self.arguments = recipe, arguments
        self.model_arguments, self.data_arguments = model_arguments, data_arguments
        self.output_dir = Path(str(arguments.output_dir))
        self.console = Console(highlight=False, markup=False)
        self.is_main_process = PartialState().is_main_process

    def check(self) -> None:
        """Raise RecipeError for keys that contradict each other."""
        if self.model_arguments.model is not None:
            self.model_arguments.model = result_of(self.model_arguments.model)
        refuse_model_in_the_way(self.model_arguments.model, self.output_dir)
        settle_global_batch(self.recipe, self.arguments, PartialState().num_processes)

    @abstractmethod
    def open(self) -> None:
        """Open the sources of the data. Raises FileNotFoundError, SampleError, ValueError."""

    @abstractmethod
    def build(self) -> tuple[PreTrainedModel, Any]:
        """Build or load the model and its processor. Raises RecipeError."""

    @abstractmethod
    def measure(self) -> None:
        """Count the data before the first step, and name each unusable sample. Raises SampleError, RecipeError."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return `data_fingerprint`, `source_fingerprints`, `samples` and `failed_sources`, for `run.json`."""

    @abstractmethod
    def trainer(self) -> Trainer:
        """Build the trainer of the model."""

    @abstractmethod
    def describe(self, trainer: Any, changes: list[str]) -> list[Any]:
        """Return lines and tables about the run. `changes`: sentences about the keys that a resumed run changes."""

    @abstractmethod
    def save_shares(self, trainer: Any = None) -> None:
        """Write `mixture.json`: the planned shares, and after the training (`trainer`) the realised ones."""

    def finish(self, trainer: Any) -> dict[str, Any]:
        """Complete the counters and the validation after the training. Returns facts for `run.json`."""
        return {}

    def result(self, trainer: Any) -> dict[str, Any] | None:
        """Return the line of JSON that the command prints last, or None."""
        return None

    def setup(self) -> None:
        """Check the keys, choose the checkpoint, set the seed. Raises RecipeError, CheckpointError."""
        self.check()
        # One process hashes the files, and all resume from the same checkpoint.
        resume = self.arguments.resume_from_checkpoint
        self.checkpoint, messages = in_main_process(choose_checkpoint, self.output_dir, resume)
        if self.checkpoint is not None and not self.checkpoint.is_dir():
            raise CheckpointError(
                f"process {PartialState().process_index} does not see {self.checkpoint}: copy it to {self.output_dir}"
            )
        for message in messages if self.is_main_process else ():
            self.console.print(message, soft_wrap=True)
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
            self.open()

    def build_model(self) -> None:
        """Build or load `model` and `processor`. Raises RecipeError."""
        if self.is_main_process and self.model_arguments.model is None and self.model_arguments.tokenizer is None:
            self.console.print("no tokenizer is named: training one on the texts of the data")
        with recipe_errors("the model cannot be built"), complete_modules(self.arguments):
            self.model, self.processor = self.build()

    def fit(self, publish: Callable[[Run, Trainer, Any, Tensors | None], None] | None = None) -> Trainer:
        """Measure the data, train from the beginning or from the checkpoint, and publish the result.

        Args:
            publish: called in the main process after the training, with the run, the trainer and what `gather_model`
                returns.

        Raises:
            RecipeError, SampleError, CheckpointError, NonFiniteError: the message says what to do.
            Interrupted: after a signal ended the training and a checkpoint was saved.
        """
        self.measure()
        every_key = (self.model_arguments, self.data_arguments, self.arguments)
        self.run_state = {
            **self.facts(),
            "seed": self.arguments.seed,
            **settings_for_resume(*every_key),
            "versions": versions(),
        }
        refuse_unequal_processes(settings_of_a_process(self.run_state, *every_key))
        changes = check_same_run(self.checkpoint, self.run_state) if self.checkpoint is not None else []
        trainer: Any = self.trainer()
        refuse_other_strategy(trainer)
        if self.checkpoint is not None:
            refuse_other_layout(trainer, self.checkpoint)
        trainer.remove_callback(PrinterCallback)
        if self.arguments.disable_tqdm:
            trainer.remove_callback(ProgressCallback)
        counts = count_parameters(trainer.model)
        resumed_at = step_of(self.checkpoint) if self.checkpoint is not None else 0  # rotation may delete it
        if self.is_main_process:
            parts = self.describe(trainer, [f"changed from step {resumed_at:,} on: {each}" for each in changes])
            print_parts(self.console, [describe_processes(trainer), *parts])
            resolved = resolve_recipe(self.recipe, *every_key)
            if self.ends_with_the_data:
                del resolved["max_steps"]
            self.output_dir.mkdir(parents=True, exist_ok=True)
            (self.output_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
            write_run(self.output_dir, self.run_state)
            self.save_shares()

        started = time.perf_counter()
        if stopped_early := has_stopped(self.checkpoint, self.arguments):
            self.arguments.max_steps = resumed_at
        finished = 0 < self.arguments.max_steps <= resumed_at
        if finished and self.is_main_process:
            key = "early_stopping_patience" if stopped_early else "max_steps or num_train_epochs"
            to_do = f"to train further, raise {key}"
            self.console.print(f"the run is finished at step {resumed_at:,}: {to_do}", soft_wrap=True)
        with warnings_of_transformers(shown=not finished):  # it wonders why there is no batch
            trainer.add_callback(MissedValidation(trainer))
            train_until_stopped(trainer, self.checkpoint)
        self.run_state |= {
            "train_seconds": time.perf_counter() - started,
            "steps": trainer.state.global_step,
            "resumed_at_step": resumed_at,
            "hardware": hardware(),
            "parameters": {part: count["total"] for part, count in counts.items()},
        }
        self.run_state |= self.finish(trainer)
        if self.is_main_process:
            write_run(self.output_dir, self.run_state)
            self.save_shares(trainer)
        if publish is not None:
            if trainer.state.global_step == 0:
                raise RecipeError("no step was trained: there is nothing to publish")
            trainer.accelerator.wait_for_everyone()
            model, tensors = gather_model(trainer)
            if self.is_main_process:
                publish(self, trainer, model, tensors)
        return trainer


@contextmanager
def warnings_of_transformers(shown: bool) -> Iterator[None]:
    """Hide transformers' warnings inside the context, unless `shown`."""
    before = transformers_logging.get_verbosity()
    if not shown:
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def train(recipe, model_arguments, data_arguments, arguments, publish=None) -> Trainer:
    """Take the four steps of the `Run` for these keys, and return the trainer with the trained model."""
    from smol_hf.training.preference import PreferenceRun
    from smol_hf.training.supervised import ConversationRun, DocumentRun

    if isinstance(data_arguments, PreferenceArguments):
        kind: type[Run] = PreferenceRun
    else:
        kind = ConversationRun if data_arguments.documents is None else DocumentRun
    run = kind(recipe, model_arguments, data_arguments, arguments)
    run.setup()
    run.load_data()
    run.build_model()
    return run.fit(publish)


def result_of(model: str) -> str:
    """Return the checkpoint of a finished run if `model` is its output folder; any other text unchanged.

    Raises RecipeError if the run has not finished.
    """
    folder = Path(model)
    if (folder / "config.json").is_file() or not all((folder / name).is_file() for name in OF_A_RUN):
        return model
    if is_finished(folder):
        return str(folder / "checkpoint")
    raise RecipeError(f"the run of {model} has not finished: continue it to its end, or name one of its checkpoints")


def is_finished(output_dir: Path) -> bool:
    """Return True if the run of this folder trained all its steps and published its result.

    Raises RecipeError for a damaged `run.json`.
    """
    run, result = output_dir / "run.json", output_dir / "checkpoint" / "config.json"
    try:
        return result.is_file() and run.is_file() and "steps" in dict(json.loads(run.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{run} is damaged ({error}): restore it, or use another output_dir") from error


def refuse_model_in_the_way(model: str | None, output_dir: Path) -> None:
    """Raise RecipeError if the model is missing, is an adapter, or would be overwritten by the run."""
    if model is None:
        return
    path = Path(model)
    is_local = path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()  # no id of the Hub
    if is_local and not path.exists():
        raise RecipeError(f"there is no checkpoint {model}: check the path, or first run the recipe that makes it")
    if Path(model, "adapter_config.json").is_file():
        raise RecipeError(f"{model} is an adapter: merge it with its base first (smol-hf merge)")
    for name in ("checkpoint", "adapter"):
        if (output_dir / name).resolve() == path.resolve():
            raise RecipeError(f"{model} would be overwritten by the result of this run: choose another output_dir")
