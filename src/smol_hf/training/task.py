"""The differences between runs over conversations, documents and preferences, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig, PreTrainedModel, Trainer

from smol_hf.training.recipe.values import RecipeError

if TYPE_CHECKING:
    from smol_hf.training.run import Run

DEFAULT_CONTEXT_LENGTH = 2048


class Task(ABC):
    """Steps of a `Run` that depend on the kind of its data. `Run` calls the methods in this order, in all processes.

    Args:
        run: whose arguments, model and ledger of left out samples the methods read.
    """

    def __init__(self, run: Run):
        self.run = run

    def check(self) -> None:
        """Refuse keys that do not fit together. Raises RecipeError."""
        refuse_model_in_the_way(self.run.model_arguments.model, self.run.output_dir)

    @abstractmethod
    def open(self) -> None:
        """Open the sources of the data. Raises FileNotFoundError, SampleError, ValueError."""

    @abstractmethod
    def build(self) -> tuple[PreTrainedModel, Any]:
        """Build or load the model and its processor (of a text-only model its tokenizer). Raises RecipeError."""

    @abstractmethod
    def measure(self) -> None:
        """Look at the data before the first step: count it, and name each sample that cannot be used.

        Raises:
            SampleError: for unusable data. RecipeError: for keys that do not fit the data.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """`data_fingerprint`, `samples` and `failed_sources`, for `run.json`."""

    @abstractmethod
    def trainer(self) -> Trainer:
        """Build the trainer of `run.model`."""

    @abstractmethod
    def announce(self, trainer: Trainer, counts: dict[str, dict[str, int]], changes: list[str]) -> None:
        """Print what the run will do. Only the main process calls this.

        Args:
            counts: of the parameters of each part.
            changes: sentences about the keys that a resumed run changes.
        """

    @abstractmethod
    def resolved(self) -> dict[str, Any]:
        """Keys and values of the recipe that repeats this run."""

    @abstractmethod
    def save_shares(self, trainer: Trainer | None = None) -> None:
        """Write `mixture.json`: the planned shares, and after the training (`trainer`) the realised ones."""

    def finish(self, trainer: Trainer) -> dict[str, Any]:
        """Complete the counters and the validation after the training. Returns facts for `run.json`."""
        return {}

    def result(self, trainer: Trainer) -> dict[str, Any] | None:
        """The line of JSON that the command prints last; None for none."""
        return None


def refuse_model_in_the_way(model: str | None, output_dir: Path) -> None:
    """Raises RecipeError when the run would overwrite the model that it begins with, or begins with an adapter."""
    if model is None:
        return
    path = Path(model)
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()):
        raise RecipeError(f"there is no checkpoint {model}")  # and no id of the Hub looks so
    if Path(model, "adapter_config.json").is_file():
        raise RecipeError(f"{model} is an adapter: merge it with its base first (smol-hf merge)")
    for name in ("checkpoint", "adapter"):
        if (output_dir / name).resolve() == Path(model).resolve():
            raise RecipeError(f"{model} is what this run would write its result to: choose another output_dir")


def context_length(asked: int | None, config: PretrainedConfig) -> int:
    """The recipe's, or the language model's positions, at most 2048. Raises RecipeError when there are too few."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_LENGTH
    if asked is None:
        return min(positions, DEFAULT_CONTEXT_LENGTH)
    if asked > positions:
        raise RecipeError(
            f"context_length {asked} is more than the {positions} positions of the language model "
            "(text_config.max_position_embeddings)"
        )
    return asked
