"""The commands `smol-hf recipes ...`: the recipes that ship with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SUMMARY = "list, show and copy the recipes that ship with the package"


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """`list` takes no arguments."""


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="name of a recipe, such as quickstart/digits or digits")


def add_copy(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("output", nargs="?", metavar="FILE", help="file to write (default: its name, in this folder)")


def run_list(arguments: argparse.Namespace) -> None:
    from smol_hf.training.shipped_recipes import command_of, purpose_of, shipped_recipes

    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        sys.stdout.write(f"{name:<{width}}  {command_of(name):<8}  {purpose_of(path)}\n")


def run_show(arguments: argparse.Namespace) -> None:
    from smol_hf.training.shipped_recipes import find_recipe

    sys.stdout.write(find_recipe(arguments.name).read_text(encoding="utf-8"))


def run_copy(arguments: argparse.Namespace) -> None:
    """Write a recipe to a file that does not exist yet. Raises ValueError for one that does."""
    from smol_hf.training.shipped_recipes import find_recipe

    source = find_recipe(arguments.name)
    output = Path(arguments.output or source.name)
    output = output / source.name if output.is_dir() else output
    if output.exists():
        raise ValueError(f"{output} exists: name another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(source.read_bytes())
    sys.stdout.write(f"{output}\n")


RECIPE_COMMANDS = {
    "list": ("list the recipes with their commands", "smol-hf recipes list", add_nothing, run_list),
    "show": ("print a recipe", "smol-hf recipes show quickstart/digits", add_name, run_show),
    "copy": ("copy a recipe to a file of yours", "smol-hf recipes copy text/pretrain my.yaml", add_copy, run_copy),
}
