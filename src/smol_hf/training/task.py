"""The differences between runs over conversations, documents and preferences, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig, PreTrainedModel, Trainer

from smol_hf.training.log.run_record import resolve_recipe
from smol_hf.training.recipe.values import RecipeError

if TYPE_CHECKING:
    from smol_hf.training.run import Run

DEFAULT_CONTEXT_LENGTH = 2048


class Task(ABC):
    """The steps of a `Run` that depend on the kind of its data, called in this order in all processes.

    Args:
        run: its arguments, model and list of skipped samples are read.
    """

    def __init__(self, run: Run):
        self.run = run
        self.arguments: Any = run.arguments
        self.data_arguments: Any = run.data_arguments

    def check(self) -> None:
        """Raise RecipeError for keys that contradict each other."""
        refuse_model_in_the_way(self.run.model_arguments.model, self.run.output_dir)

    @abstractmethod
    def open(self) -> None:
        """Open the sources of the data. Raises FileNotFoundError, SampleError, ValueError."""

    @abstractmethod
    def build(self) -> tuple[PreTrainedModel, Any]:
        """Build or load the model and its processor (of a text-only model its tokenizer). Raises RecipeError."""

    @abstractmethod
    def measure(self) -> None:
        """Count the data before the first step, and name each unusable sample. Raises SampleError, RecipeError."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return `data_fingerprint`, `samples` and `failed_sources`, for `run.json`."""

    @abstractmethod
    def trainer(self) -> Trainer:
        """Build the trainer of `run.model`."""

    @abstractmethod
    def announce(self, trainer: Any, counts: dict[str, dict[str, int]], changes: list[str]) -> None:
        """Print what the run will do. Only the main process calls this.

        Args:
            counts: parameters of each part.
            changes: sentences about the keys that a resumed run changes.
        """

    def resolved(self) -> dict[str, Any]:
        """Return the recipe that repeats this run."""
        return resolve_recipe(self.run.recipe, self.run.model_arguments, self.data_arguments, self.arguments)

    @abstractmethod
    def save_shares(self, trainer: Any = None) -> None:
        """Write `mixture.json`: the planned shares, and after the training (`trainer`) the realised ones."""

    def finish(self, trainer: Any) -> dict[str, Any]:
        """Complete the counters and the validation after the training. Returns facts for `run.json`."""
        return {}

    def result(self, trainer: Any) -> dict[str, Any] | None:
        """Return the line of JSON that the command prints last, or None."""
        return None


def refuse_model_in_the_way(model: str | None, output_dir: Path) -> None:
    """Raise RecipeError if the model is missing, is an adapter, or would be overwritten by the run."""
    if model is None:
        return
    path = Path(model)
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()):
        raise RecipeError(f"there is no checkpoint {model}")  # and it cannot be an id of the Hub
    if Path(model, "adapter_config.json").is_file():
        raise RecipeError(f"{model} is an adapter: merge it with its base first (smol-hf merge)")
    for name in ("checkpoint", "adapter"):
        if (output_dir / name).resolve() == Path(model).resolve():
            raise RecipeError(f"{model} would be overwritten by the result of this run: choose another output_dir")


def context_length(asked: int | None, config: PretrainedConfig) -> int:
    """Return the asked length, or the model's positions up to 2048. Raises RecipeError for too few positions."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_LENGTH
    if asked is None:
        return min(positions, DEFAULT_CONTEXT_LENGTH)
    if asked > positions:
        raise RecipeError(
            f"context_length {asked} is more than the {positions} positions of the language model "
            "(text_config.max_position_embeddings)"
        )
    return asked
