"""A recipe, or a data file and a few keys → its data as a run would see it, without weights or training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedTokenizerBase

from smol_hf.data.mixture.mixture import Data
from smol_hf.data.sources.source import Head
from smol_hf.data.stream.stream import Plan
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.support.formatting import percent
from smol_hf.support.tokenizer_of import tokenizer_of
from smol_hf.training.data import context_length, open_data, plan_of, set_video_keys
from smol_hf.training.model.composition import build_config_and_processor, texts_of
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import apply_overrides, parse_command_line, parse_recipe, read_recipe
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.supervised import TOKENIZER_SAMPLES

DEFAULT_SEED = 42  # TrainingArguments'
SAYS_THE_MODEL = ("model", "preset", "vision_config", "text_config", "tokenizer")


@dataclass
class Inspection:
    """The data of a recipe as its run would read it: one round of the mixture."""

    data: Data
    plan: Plan
    processor: SmolHFProcessor | PreTrainedTokenizerBase
    model_arguments: ModelArguments
    data_arguments: DataArguments
    seed: int

    def first(self, number: int) -> Inspection:
        """Return the inspection of the first `number` records of each source, with the shares of the mixture."""
        heads = [Head(source, number) for source in self.plan.sources]
        weights = [
            weight * len(source) / max(len(head), 1)
            for weight, source, head in zip(self.plan.weights, self.plan.sources, heads)
        ]
        weights = [weight / max(weights) for weight in weights]
        return replace(self, plan=replace(self.plan, sources=heads, weights=weights))

    @property
    def held_out(self) -> str | None:
        """Say which share of the samples is held out for validation, and not among these."""
        fraction = self.data_arguments.eval_fraction
        return f"{percent(fraction)} of the samples, which are not counted or shown here" if fraction else None

    @property
    def tokenizer(self) -> str:
        """The tokenizer that counts the tokens, in words."""
        named = self.model_arguments.model or self.model_arguments.tokenizer
        return named or f"a small one trained on this data ({len(tokenizer_of(self.processor)):,} tokens)"


def read_keys(config: str | None, keys: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Read a recipe and override some of its keys. Raises RecipeError.

    Args:
        config: path of the recipe, or None.
        keys: overrides, except those that are None.
        words: further overrides as on the command line, `--key value`; `--a.b` sets a key of a mapping.
    """
    _, overrides = parse_command_line(words)
    recipe = read_recipe(config) if config is not None else {}
    return apply_overrides(recipe, {**{name: value for name, value in keys.items() if value is not None}, **overrides})


def open_recipe(
    recipe: dict[str, Any], *, trained_only: bool = False
) -> tuple[Data, ModelArguments, DataArguments, int]:
    """Open the data of a recipe. Returns (data, model keys, data keys, seed). Raises the errors of `open_data`.

    Args:
        trained_only: leave out the samples that `eval_fraction` holds out.
    """
    parsed: Any = parse_recipe(recipe, (ModelArguments, DataArguments))
    model_arguments, data_arguments = parsed
    if data_arguments.documents is not None:
        raise RecipeError(
            "documents are plain texts, but this command reads conversations: start the run to see its documents"
        )
    seed = recipe.get("seed", DEFAULT_SEED)
    with recipe_errors("the data cannot be built"):
        return open_data(data_arguments, seed, whole=not trained_only), model_arguments, data_arguments, seed


def inspect(recipe: dict[str, Any], *, seed: int | None = None) -> Inspection:
    """Open the data of a recipe's keys with the processor of its model.

    Args:
        seed: of the order; by default the recipe's.

    Raises:
        RecipeError: for keys that contradict each other, or without a model.
    """
    if not any(recipe.get(key) is not None for key in SAYS_THE_MODEL):
        raise RecipeError(
            "tokens and tiles depend on the model: name a checkpoint (--model), a preset (--preset) or a recipe "
            "(--config)"
        )
    data, model_arguments, data_arguments, recipe_seed = open_recipe(recipe, trained_only=True)
    with recipe_errors("the model cannot be built"):
        config, processor = build_config_and_processor(
            model_arguments,
            texts_of(data.conversations(TOKENIZER_SAMPLES)),
            trust_remote_code=bool(recipe.get("trust_remote_code", False)),
        )
    set_video_keys(processor, data_arguments)
    data_arguments.context_length = context_length(data_arguments.context_length, config)
    given = (seed, recipe.get("data_seed"), recipe_seed)
    order: int = next(each for each in given if each is not None)
    one_round: Any = SimpleNamespace(seed=order, data_seed=None, max_steps=0, num_train_epochs=1)
    plan = plan_of(data, processor, data_arguments, one_round, data_arguments.data_lanes)
    return Inspection(data, plan, processor, model_arguments, data_arguments, order)


def list_entries(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """List the entries of a recipe's mixture, or its one source.

    Each has `name`, `data`, `adapter` (None: chosen by the keys of each record), `weight`, and `records`, or the
    `problem` if they cannot be read. Raises RecipeError for unknown keys.
    """
    parsed: Any = parse_recipe(recipe, (DataArguments,))
    (arguments,) = parsed
    seed = recipe.get("seed", DEFAULT_SEED)
    if arguments.mixture is None:
        return [entry_facts({"data": arguments.data, "adapter": arguments.adapter}, arguments, seed)]
    return [entry_facts(keys, replace(arguments, mixture=[keys]), seed) for keys in arguments.mixture]


def entry_facts(keys: dict[str, Any], arguments: DataArguments, seed: int) -> dict[str, Any]:
    """Return the facts of one entry, see `list_entries`."""
    facts = {"name": keys.get("name") or keys.get("data"), "data": keys.get("data"), "adapter": keys.get("adapter")}
    facts["weight"] = keys.get("weight", 1.0)
    try:
        with recipe_errors("the data cannot be built"):
            (source,) = open_data(arguments, seed, whole=True).sources
    except (ValueError, OSError) as error:
        return {**facts, "problem": str(error)}
    return {**facts, "name": source.name, "records": len(source)}
