"""A recipe, or a data file and a few keys → what is needed to look at the data as a run would see it, without a
model's weights and without anything that trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedTokenizerBase

from smol_hf.data.mixture.mixture import Data
from smol_hf.data.sources.source import Head
from smol_hf.data.stream.stream import Plan
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.support.tokenizer_of import tokenizer_of
from smol_hf.training.data import open_data, plan_of
from smol_hf.training.model.composition import build_config_and_processor, texts_of
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import apply_overrides, parse_command_line, parse_recipe, read_recipe
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.supervised import TOKENIZER_SAMPLES
from smol_hf.training.task import context_length

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
        """The same of the first `number` records of each source alone. Their shares stay those of the mixture."""
        heads = [Head(source, number) for source in self.plan.sources]
        weights = [
            weight * len(source) / max(len(head), 1)
            for weight, source, head in zip(self.plan.weights, self.plan.sources, heads)
        ]
        weights = [weight / max(weights) for weight in weights]
        return replace(self, plan=replace(self.plan, sources=heads, weights=weights))

    @property
    def tokenizer(self) -> str:
        """Which tokenizer counts the tokens, in words."""
        named = self.model_arguments.model or self.model_arguments.tokenizer
        return named or f"a small one trained on this data ({len(tokenizer_of(self.processor)):,} tokens)"


def read_keys(config: str | None, keys: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The keys of a recipe with others in their place.

    Args:
        config: path of the recipe, or None.
        keys: those that are not None count more than the recipe's.
        words: `--key value`, as on the command line of a run, where `--a.b` sets a key inside a mapping.

    Raises:
        RecipeError: if the recipe cannot be read or a key has no value.
    """
    _, overrides = parse_command_line(words)
    recipe = read_recipe(config) if config is not None else {}
    return apply_overrides(recipe, {**{name: value for name, value in keys.items() if value is not None}, **overrides})


def open_recipe(recipe: dict[str, Any]) -> tuple[Data, ModelArguments, DataArguments, int]:
    """(the data, the arguments, the seed of its order) of a recipe's keys. Those that train are not looked at.

    Raises:
        RecipeError, SampleError, FileNotFoundError: see `open_data`.
    """
    model_arguments, data_arguments = parse_recipe(recipe, (ModelArguments, DataArguments))
    if data_arguments.documents is not None:
        raise RecipeError(
            "documents are plain texts, and this looks at conversations: a run says what it reads of them"
        )
    seed = recipe.get("seed", DEFAULT_SEED)
    with recipe_errors("the data cannot be built"):
        return open_data(data_arguments, seed), model_arguments, data_arguments, seed


def inspect(recipe: dict[str, Any], *, seed: int | None = None) -> Inspection:
    """Open the data of a recipe's keys with the processor of its model.

    Args:
        seed: of the order; the recipe's by default.

    Raises:
        RecipeError: for keys that do not fit together, or none that says which model the data is for.
    """
    if not any(recipe.get(key) is not None for key in SAYS_THE_MODEL):
        raise RecipeError(
            "tokens and tiles depend on the model: name a checkpoint (--model), a preset (--preset) or a recipe "
            "(--config)"
        )
    data, model_arguments, data_arguments, recipe_seed = open_recipe(recipe)
    with recipe_errors("the model cannot be built"):
        config, processor = build_config_and_processor(
            model_arguments,
            texts_of(data.conversations(TOKENIZER_SAMPLES)),
            trust_remote_code=bool(recipe.get("trust_remote_code", False)),
        )
    data_arguments.context_length = context_length(data_arguments.context_length, config)
    if seed is None:
        seed = recipe_seed if recipe.get("data_seed") is None else recipe["data_seed"]
    one_round = SimpleNamespace(seed=seed, data_seed=None, max_steps=0, num_train_epochs=1)
    plan = plan_of(data, processor, data_arguments, one_round, data_arguments.data_lanes)
    return Inspection(data, plan, processor, model_arguments, data_arguments, seed)


def list_entries(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a recipe's mixture, or its one source: `name`, `data`, `adapter` (None: found by the keys of each
    record), `weight`, and `records`, or the `problem` why they cannot be read.

    Raises:
        RecipeError: for keys that do not exist.
    """
    (arguments,) = parse_recipe(recipe, (DataArguments,))
    if arguments.mixture is None:
        alone = {"data": arguments.data, "adapter": arguments.adapter}
        return [entry_facts(alone, arguments, recipe.get("seed", DEFAULT_SEED))]
    return [
        entry_facts(keys, replace(arguments, mixture=[keys]), recipe.get("seed", DEFAULT_SEED))
        for keys in arguments.mixture
    ]


def entry_facts(keys: dict[str, Any], arguments: DataArguments, seed: int) -> dict[str, Any]:
    facts = {"name": keys.get("name") or keys.get("data"), "data": keys.get("data"), "adapter": keys.get("adapter")}
    facts["weight"] = keys.get("weight", 1.0)
    try:
        with recipe_errors("the data cannot be built"):
            (source,) = open_data(arguments, seed).sources
    except (ValueError, OSError) as error:
        return {**facts, "problem": str(error)}
    return {**facts, "name": source.name, "records": len(source)}
