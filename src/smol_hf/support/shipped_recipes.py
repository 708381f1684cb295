"""Recipes that ship with the package, by name."""

from __future__ import annotations

import itertools
from pathlib import Path

from smol_hf.support.formatting import nearest
from smol_hf.support.resources import resource_path

MIXTURES = "mixtures"
OTHERS = ("accelerate", "launch")  # files that start a run, which are not recipes


def shipped_recipes() -> dict[str, Path]:
    """Return {name: path}. A name is the path below `recipes/` without `.yaml`, such as quickstart/digits."""
    root = resource_path("recipes")
    files = sorted(path for path in root.rglob("*.yaml") if path.parent.name not in OTHERS)
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def find_recipe(name: str) -> Path:
    """Return the path of a shipped recipe.

    Args:
        name: its name, with or without `recipes/` and `.yaml`, or the last part of its name if that is unique.

    Raises:
        ValueError: if no recipe or more than one has this name.
    """
    recipes = shipped_recipes()
    wanted = name.removeprefix("recipes/").removesuffix(".yaml")
    if wanted in recipes:
        return recipes[wanted]
    found = [each for each in recipes if each.rpartition("/")[2] == wanted]
    if len(found) == 1:
        return recipes[found[0]]
    if found:
        raise ValueError(f"several recipes are called {wanted}: choose {' or '.join(found)}")
    known = [*recipes, *(each.rpartition("/")[2] for each in recipes)]
    hint = nearest(wanted, known) or ": smol-hf recipes list shows the shipped recipes"
    raise ValueError(f"the recipe {name} does not exist{hint}")


def purpose_of(path: Path) -> str:
    """Return the first sentence of the comment at the top of a recipe, on one line."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(" ".join(line.lstrip("# ") for line in comment).split())
    return text.partition(". ")[0].rstrip(".")


def command_of(name: str) -> str:
    """Return the command that takes this recipe as its `--config`."""
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    if name.startswith(f"{MIXTURES}/"):
        return "mixture"
    if "\ndocuments:" in text:
        return "pretrain"
    return "dpo" if name.rpartition("/")[2].startswith("dpo") else "train"
