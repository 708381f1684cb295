"""Recipes: a YAML file of flat keys, and overrides from the command line → checked arguments.

Nothing is guessed. The error for an unknown key names the nearest key; the error for a wrong value names its key.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy

from smol_hf.data.mixture.entry_keys import without_deleted_keys
from smol_hf.support.formatting import nearest
from smol_hf.support.resources import resource_path
from smol_hf.support.shipped_recipes import find_recipe
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.evaluation_arguments import ORIGINS
from smol_hf.training.recipe.inherited_checks import refuse_what_cannot_train
from smol_hf.training.recipe.inherited_keys import key_of
from smol_hf.training.recipe.key_help import command_with
from smol_hf.training.recipe.keys import Runs, default_of, refuse_other_runs
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError, UsageError, kinds_of, read_file, value_of

ARGUMENT_CLASSES = (ModelArguments, DataArguments, SmolTrainingArguments)
PREFERENCE_CLASSES = (ModelArguments, PreferenceArguments, DPOArguments)
MAPPINGS = ("fsdp_config", "deepspeed")  # keys whose value may be the path of a file
SWITCHES = ("resume_from_checkpoint", "fsdp")  # keys whose value is text or true
BOOLEANS = {**dict.fromkeys(("true", "yes", "1"), True), **dict.fromkeys(("false", "no", "0"), False)}
LONGEST_SHOWN = 100  # characters of a value in an error
RECORDED_WITH = ("run.json", "config.json")  # files in the folder of a recipe that a run saved


def types_of(classes: tuple[type, ...]) -> dict[str, Any]:
    return {name: hint for each in classes for name, hint in typing.get_type_hints(each).items()}


def known_keys(classes: tuple[type, ...] = ARGUMENT_CLASSES) -> list[str]:
    return [field.name for arguments in classes for field in dataclasses.fields(arguments) if field.init]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a YAML file, or a recipe that ships with the package. Raises RecipeError, naming the file."""
    if not Path(path).exists():
        try:
            path = find_recipe(str(path))
        except ValueError as error:
            raise RecipeError(str(error)) from error
    if Path(path).is_dir():
        saved = Path(path) / "recipe.yaml"
        hint = f"name {saved}" if saved.is_file() else "name a YAML file"
        raise RecipeError(f"{path} is a folder, and a recipe is a file: {hint}")
    recipe = read_file(Path(path))
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path}: a recipe is a list of `key: value` lines")
    try:
        recipe = without_deleted_keys(recipe)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
    return with_files(recipe, Path(path).parent)


def with_files(recipe: dict[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """Replace the names of files in `folder` by their content. Raises RecipeError."""
    readers = {"mixture": read_mixture, "eval_mixture": read_mixture, **dict.fromkeys(MAPPINGS, read_mapping)}
    named = {key: read for key, read in readers.items() if isinstance(recipe.get(key), str)}
    return recipe | {key: read(recipe[key], folder, key=key) for key, read in named.items()}


def read_mixture(name: str, folder: Path = Path(), *, key: str = "mixture") -> list[dict[str, Any]]:
    """Read the YAML file that `key` names, in `folder` or shipped (`recipes/mixtures/…`). Raises RecipeError."""
    path = folder / name
    if not path.is_file():
        try:
            path = resource_path(name)
        except FileNotFoundError:
            raise RecipeError(f"{key}: the file {folder / name} does not exist") from None
    entries = read_file(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RecipeError(f"{path}: a mixture is a list of entries, such as `- {{data: my.jsonl, weight: 2}}`")
    return entries


def read_mapping(name: str, folder: Path = Path(), *, key: str) -> dict[str, Any]:
    """Read the YAML or JSON file that `key` names, in `folder`. Raises RecipeError."""
    if not (folder / name).is_file():
        raise RecipeError(f"{key}: the file {folder / name} does not exist")
    values = read_file(folder / name)
    if not isinstance(values, dict):
        raise RecipeError(f"{key}: {folder / name} must hold `key: value` lines")
    return values


def parse_command_line(
    arguments: Sequence[str], classes: tuple[type, ...] = ARGUMENT_CLASSES
) -> tuple[str | None, dict[str, Any]]:
    """Split `--config FILE --key value --dotted.key=value` into FILE and overrides. Raises UsageError.

    The type of a key in `classes` decides how its value is read (see `values.value_of`); a switch needs none.
    """
    types = types_of(classes) | {"config": str}
    overrides: dict[str, Any] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            raise UsageError(f"unexpected argument {argument!r}: write --key value")
        key, equals, value = argument[2:].partition("=")
        top, *rest = key.split(".")
        key = ".".join([top.replace("-", "_"), *rest])
        annotation = Any if rest else types.get(key, Any)
        if not equals:
            if waiting and not waiting[0].startswith("--"):
                value = waiting.pop(0)
            elif bool not in kinds_of(annotation) and key in types and key not in SWITCHES:
                raise UsageError(f"--{key} needs a value: write --{key} VALUE")
            else:
                value = "true"
        if key in overrides:
            raise UsageError(f"--{key} is given twice")
        try:
            overrides[key] = value_of(value, annotation)
        except yaml.YAMLError as error:
            given = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}…"
            raise UsageError(f"--{key} {given}: {getattr(error, 'problem', None) or error}") from error
    return overrides.pop("config", None), overrides


def apply_overrides(recipe: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Copy the recipe, with `a.b: value` set inside the mapping `a`."""
    recipe = copy.deepcopy(recipe)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        target = recipe
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise UsageError(f"--{dotted}: {parent!r} is not a mapping")
        target[last] = value
    return recipe


def combine(
    recipe: dict[str, Any], overrides: dict[str, Any], classes: tuple[type, ...], recorded: bool = False
) -> dict[str, Any]:
    """Merge the recipe and the command line, which wins.

    A strategy of the command line removes the recipe's steps, and steps remove the recipe's strategy.

    Args:
        recorded: True for the saved recipe of a run. It includes the command line of that run and can contradict
            itself.

    Raises:
        RecipeError: for a key that has no effect with the strategy of the same source, or with the default strategy.
    """
    combined = apply_overrides(recipe, overrides)
    if combined.get("num_checkpoints") is not None and combined.get("save_steps") is not None:
        if ("num_checkpoints" in overrides) != ("save_steps" in overrides):
            del combined["save_steps" if "num_checkpoints" in overrides else "num_checkpoints"]
        elif "save_steps" in overrides or not recorded:
            raise RecipeError("num_checkpoints and save_steps exclude each other: leave one of them out")
    entries = {entry.name: entry for each in classes for entry in dataclasses.fields(each)}
    for name, entry in entries.items():
        key, value = key_of(entry), combined.get(name)
        if not key.strategy or value is None or key.crossed(value):  # later checks refuse a value outside its bounds
            continue
        strategy, *values = key.strategy
        if name == "per_device_eval_batch_size" and any(combined.get(each) for each in ("documents", *ORIGINS)):
            continue  # a run also validates at its end
        default = default_of(entries[strategy])
        default = getattr(default, "value", default)
        current = combined.get(strategy, default)
        if current in values or current not in [each.value for each in SaveStrategy]:
            continue
        if strategy in overrides and name not in overrides:
            del combined[name]
        elif name in overrides and strategy in recipe and strategy not in overrides and default in values:
            del combined[strategy]
        elif name in overrides or not recorded:
            raise RecipeError(
                f"{name} has no effect with {strategy}: {current}: set {strategy}: {' or '.join(values)}, or leave "
                f"{name} out"
            )
    return combined


def parse_recipe(
    recipe: dict[str, Any],
    classes: tuple[type, ...] = ARGUMENT_CLASSES,
    known_classes: tuple[type, ...] = ARGUMENT_CLASSES,
) -> tuple[Any, ...]:
    """Check every key and value of a recipe and build the arguments of `classes`. Raises RecipeError.

    A command that only looks at the data names the classes that it needs; values of the others may not fit its
    machine. `known_classes` declare the keys that exist.
    """
    known = known_keys(known_classes)
    try:
        for key in (recipe := without_deleted_keys(recipe)):
            if key not in known:
                raise UsageError(f"unknown key {key!r}{command_with(key) or nearest(str(key), known)}")
        recipe = with_files(recipe)
        types = types_of(classes)
        values = {key: convert(key, value, types[key]) for key, value in recipe.items() if key in known_keys(classes)}
        parsed = tuple(
            each(**{key: value for key, value in values.items() if key in known_keys((each,))}) for each in classes
        )
    except RecipeError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise RecipeError(str(error)) from error
    if issubclass(classes[-1], TrainingArguments):
        refuse_what_cannot_train(parsed[0], parsed[-1])
    return parsed


def convert(key: str, value: Any, annotation: Any) -> Any:
    """Convert a value to the type of its key: one value can be a list, text a number, and a whole number a number.

    Values of other types are refused later. Written out again, they can differ from the text of the recipe (`007`).
    """
    if key == "fsdp":
        if value is not None and str(value).lower() not in BOOLEANS:
            raise ValueError(f"fsdp is {value!r}: it must be true or false; fsdp_config has the options")
        return BOOLEANS.get(str(value).lower())
    if key in SWITCHES:
        return str(value).lower() if isinstance(value, bool) else value
    kinds = kinds_of(annotation)
    (item,) = typing.get_args(kinds[0]) if typing.get_origin(kinds[0]) is list else (None,)
    if isinstance(value, str) and value and str not in kinds and item is None:  # "" is no null
        value = value_of(value, annotation)
    if bool in kinds:
        value = BOOLEANS.get(str(value).lower(), value)
    if item in (str, int, float) and isinstance(value, item):
        value = [value]
    if item is float and isinstance(value, list):
        value = [float(each) if type(each) is int else each for each in value]
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(repr(value))
    for kind in kinds:
        names = [each.value for each in kind] if isinstance(kind, type) and issubclass(kind, enum.Enum) else None
        if names is not None and value not in names:
            raise ValueError(f"{key} is {value!r}{nearest(str(value), names)} (known: {', '.join(names)})")
    return value


def load_arguments(command_line: Sequence[str], classes: tuple[type, ...] = ARGUMENT_CLASSES) -> tuple[Any, ...]:
    """Return the recipe and the model, data and training arguments of `--config FILE` and overrides.

    Raises RecipeError, also for a key without effect in this kind of run, unless it is of a saved recipe.
    """
    path, overrides = parse_command_line(command_line, classes)
    recorded = path is not None and any(Path(path).with_name(name).is_file() for name in RECORDED_WITH)
    recipe = combine(read_recipe(path) if path is not None else {}, overrides, classes, recorded)
    runs = Runs.CONVERSATIONS if recipe.get("documents") is None else Runs.DOCUMENTS
    try:
        refuse_other_runs(
            overrides if recorded else recipe, classes, Runs.PREFERENCES if PreferenceArguments in classes else runs
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return recipe, *parse_recipe(recipe, classes, classes)


def ask_for_data(recipe: dict, classes: tuple[type, ...] = ARGUMENT_CLASSES) -> None:
    """Refuse a recipe that names no data. The embedded digits are not a default. Raises RecipeError."""
    keys = [key for key in ("data", "mixture", "documents") if key in known_keys(classes)]
    if any(recipe.get(key) is not None for key in keys):
        return
    if keys == ["data"]:
        raise RecipeError("data is missing: name preferences, a file, a folder or a dataset of the Hub")
    raise RecipeError(
        "data is missing: name a file, a folder or a dataset of the Hub, e.g. data: my.jsonl (or mixture, "
        "documents), or begin with a recipe such as --config quickstart/digits (smol-hf recipes list)"
    )
