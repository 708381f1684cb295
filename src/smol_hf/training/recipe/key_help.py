"""Help for the recipe keys of a command, from a generated file, so that it imports no library.

`python docs/recipe_keys.py` writes the file again.
"""

from __future__ import annotations

import argparse
import functools
import json
import textwrap
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recipe_keys.json")
INHERITED = {
    "train": "all keys of TRL's SFTConfig, such as learning_rate and max_steps",
    "dpo": "all keys of TRL's DPOConfig, such as beta",
}
USAGES = {
    "train": "smol-hf train [--config RECIPE.yaml | --stages RECIPE.yaml …] [--key value …] [--dry-run]",
    "dpo": "smol-hf dpo [--config RECIPE.yaml] [--key value …] [--dry-run]",
}
DESCRIPTIONS = {
    "train": """Train a model from a recipe. Every key of the recipe can be set on the command line.
A dot sets a key inside a mapping, as in --filters.max_turns 3.
RECIPE.yaml is a file, or the name of a shipped recipe (smol-hf recipes list).""",
    "dpo": "Train a language model on preferences (DPO). Every key of the recipe can be set on the command line.",
}
EXAMPLES = {
    "train": """smol-hf train --config quickstart/digits
  smol-hf train --config quickstart/digits --max_steps 20 --text_config.num_hidden_layers 3
  smol-hf train --model runs/demo/checkpoint --data my.jsonl --output_dir runs/mine
  smol-hf train --config smolvlm2_256m/last_stage --dry-run --num-processes 8
  smol-hf train --stages vision.yaml video.yaml --seed 1
  accelerate launch --num_processes 2 -m smol_hf.train --config recipes/quickstart/digits.yaml""",
    "dpo": """smol-hf dpo --config recipes/text/dpo_135m.yaml
  smol-hf dpo --model runs/chat/checkpoint --data preferences.jsonl --output_dir runs/dpo
  accelerate launch --num_processes 2 -m smol_hf.dpo --config recipes/text/dpo_135m.yaml""",
}


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of a dry run."""
    checks = parser.add_argument_group("dry run")
    checks.add_argument("--dry-run", action="store_true", help="check the recipe and show its numbers; train nothing")
    checks.add_argument("--num-processes", type=int, metavar="N", help="processes of the planned run (default 1)")
    checks.add_argument("--tflops", type=float, help="achieved TFLOP/s of one process, for the hours of the run")


def add_stages(parser: argparse.ArgumentParser) -> None:
    """Add the option for a chain of recipes."""
    parser.add_argument("--stages", nargs="+", metavar="RECIPE", help="recipes of a chain, instead of --config")


@functools.cache
def recipe_keys() -> dict[str, dict[str, Any]]:
    """Return {command: {"own": {key: help}, "others": "key key …"}}."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@functools.cache
def known_keys(command: str) -> tuple[str, ...]:
    """Return all keys of the recipes of `train` or `dpo`."""
    keys = recipe_keys()[command]
    return (*keys["own"], *keys["others"].split())


def command_with(key: str) -> str:
    """Name the command that has this key of a recipe, as the end of an error; "" if none has it."""
    return next((f": it is a key of smol-hf {name}" for name in recipe_keys() if key in known_keys(name)), "")


def help_text(command: str) -> str:
    """Return the help of `smol-hf train` or `smol-hf dpo`, which lists our keys."""
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    if command == "train":
        add_stages(parser)
    add_dry_run(parser)
    lines = [
        f"usage: {USAGES[command]}\n\n{DESCRIPTIONS[command]}\n\nexamples:\n  {EXAMPLES[command]}\n",
        parser.format_help(),
        f"keys (and {INHERITED[command]}; docs/recipe_keys.md lists them):",
    ]
    for name, text in recipe_keys()[command]["own"].items():
        lines += [f"  --{name}", textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines) + "\n"
