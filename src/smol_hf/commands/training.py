"""The commands that train (train, pretrain, dpo, demo), and `recipes`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from smol_hf.commands.parser import Command, Parser
from smol_hf.commands.publishing import add_publish, add_target, run_publish
from smol_hf.training.recipe.key_help import USAGES, add_dry_run, add_stages

RECIPE = ("recipes", "text", "pretrain.yaml")
# Option of pretrain → key of the recipe, and help.
OPTIONS = {
    "--data": ("documents", "text file, folder or pattern of text files, .jsonl or .parquet file, or a Hub dataset"),
    "--preset": ("preset", "sizes of the model, such as smollm-tiny or smollm2-135m"),
    "--model": ("model", "language model to continue from, instead of a new one (--preset)"),
    "--tokenizer": ("tokenizer", "folder or Hub id of a tokenizer (default: train one on the data)"),
    "--steps": ("max_steps", "number of optimizer steps"),
    "--output": ("output_dir", "folder for checkpoints, log and result"),
    "--context-length": ("context_length", "tokens per row"),
    "--batch-size": ("per_device_train_batch_size", "rows per batch"),
    "--learning-rate": ("learning_rate", "peak learning rate"),
    "--log-interval": ("logging_steps", "steps between log lines"),
    "--num-checkpoints": ("num_checkpoints", "number of checkpoints, evenly spaced"),
    "--save-interval": ("save_steps", "steps between checkpoints, instead of --num-checkpoints"),
    "--keep": ("save_total_limit", "number of newest checkpoints to keep"),
    "--text-key": ("text_key", "field of a record that holds the text"),
    "--document-separator": ("document_separator", r"separator of documents in a text file; \n is a line break"),
    "--validation-data": ("validation_documents", "other texts for validation (default: a part of --data)"),
    "--seed": ("seed", "seed of the weights and the order of the data"),
}


def add_recipe(parser: Parser) -> None:
    parser.usage = USAGES[parser.keys]
    parser.lists_keys = True
    parser.add_argument("--config", metavar="RECIPE")
    if parser.keys == "train":
        add_stages(parser)
    add_dry_run(parser)


def add_pretrain(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", help="recipe (default recipes/text/pretrain.yaml, which ships with the package)")
    for option, (key, text) in OPTIONS.items():
        add(option, dest=key, metavar=option.strip("-").upper(), help=text)
    resume = add("--resume", nargs="?", const="true", dest="resume_from_checkpoint", metavar="CHECKPOINT")
    resume.help = "continue from the newest checkpoint of --output, or from CHECKPOINT"
    hub = parser.add_argument_group("after training")
    hub.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the result, like smol-hf publish --yes")
    add_target(hub)
    add_dry_run(parser)


def words_of(arguments: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Return the command line of `smol-hf train` for the same run. Raises ValueError if it names no data."""
    from smol_hf.support.resources import resource_path

    saved = Path(arguments.output_dir or "", "recipe.yaml")
    resumed = arguments.resume_from_checkpoint is not None and arguments.output_dir and saved.is_file()
    words = ["--config", arguments.config or str(saved if resumed else resource_path(*RECIPE))]
    named = [arguments.documents, arguments.config, *(word for word in more if word.startswith("--documents"))]
    if not resumed and all(each is None for each in named):
        raise ValueError("--data is missing: name a text file, a folder or a dataset of the Hub")
    keys = [key for key, _ in OPTIONS.values()] + ["resume_from_checkpoint"]
    given = {key: getattr(arguments, key) for key in keys if getattr(arguments, key) is not None}
    if "model" in given and "preset" not in given:
        words.append("--preset=null")  # the recipe's preset is for a new model
    if "save_steps" in given and "num_checkpoints" not in given:
        words.append("--num_checkpoints=null")
    return [*words, *(f"--{key}={value}" for key, value in given.items()), *more]


def check_push(arguments: argparse.Namespace) -> None:
    """Refuse options of the upload before the run. Raises ValueError."""
    if arguments.push_to_hub is None:
        return
    from smol_hf.publishing.card_edits import refuse_bad_license
    from smol_hf.publishing.plan import refuse_bad_names

    if arguments.license is None:
        raise ValueError("--push-to-hub needs --license for the model card, such as --license apache-2.0")
    refuse_bad_license(arguments.license)
    refuse_bad_names(arguments.push_to_hub, arguments.branch)


def push(arguments: argparse.Namespace, checkpoint: Path) -> None:
    words = [str(checkpoint), arguments.push_to_hub, "--yes", "--shorten-paths", "--branch", arguments.branch]
    words += ["--license", arguments.license, *(["--private"] if arguments.private else [])]
    words += ["--token", arguments.token] if arguments.token is not None else []
    parser = argparse.ArgumentParser()
    add_publish(parser)
    run_publish(parser.parse_args(words))


def run_recipe(arguments: argparse.Namespace) -> int:
    if arguments.command == "dpo":
        from smol_hf.dpo import main
    else:
        from smol_hf.train import main

    config = ["--config", arguments.config] if arguments.config is not None else []
    stages = getattr(arguments, "stages", None)
    words = ["--stages", *stages] if stages is not None else []
    return main([*words, *config, *dry_run_words(arguments), *arguments.recipe_words], usage=arguments.usage)


def dry_run_words(arguments: argparse.Namespace) -> list[str]:
    given = {"--num-processes": arguments.num_processes, "--tflops": arguments.tflops}
    words = ["--dry-run"] if arguments.dry_run else []
    return [*words, *(f"{option}={value}" for option, value in given.items() if value is not None)]


def run_pretrain(arguments: argparse.Namespace) -> int:
    check_push(arguments)
    words = words_of(arguments, arguments.recipe_words)
    from smol_hf.train import main

    after = functools.partial(push, arguments) if arguments.push_to_hub is not None else None
    return main([*dry_run_words(arguments), *words], after, arguments.usage)


def add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", default="runs/demo", help="folder to write (default runs/demo)")
    add("--video", action="store_true", help="moving digits: train on text, images and videos in turn")
    add("--config", "--recipe", dest="recipe", metavar="RECIPE", help="recipe (default quickstart/digits)")
    add("--questions", type=int, default=600, help="number of held-out questions (default 600)")
    add("--max-steps", type=int, help="number of steps (default: the recipe's), of each stage")
    add("--seed", type=int, default=0, help="seed of weights, data and their order (default 0)")


def run_demo(arguments: argparse.Namespace) -> int | None:
    if arguments.video:
        from smol_hf.demo.video import run
    else:
        from smol_hf.demo.run import run

    return run(arguments)


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """`recipes list` takes no arguments."""


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="name of a recipe, such as quickstart/digits or digits")


def add_copy(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("output", nargs="?", metavar="FILE", help="file to write (default: the recipe's name)")


def list_recipes(arguments: argparse.Namespace) -> None:
    from smol_hf.support.shipped_recipes import command_of, purpose_of, shipped_recipes

    recipes = shipped_recipes()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        sys.stdout.write(f"{name:<{width}}  {command_of(name):<8}  {purpose_of(path)}\n")


def show_recipe(arguments: argparse.Namespace) -> None:
    from smol_hf.support.shipped_recipes import find_recipe

    sys.stdout.write(find_recipe(arguments.name).read_text(encoding="utf-8"))


def copy_recipe(arguments: argparse.Namespace) -> None:
    """Copy a recipe to a new file. Raises ValueError if the file exists."""
    from smol_hf.support.shipped_recipes import find_recipe

    source = find_recipe(arguments.name)
    output = Path(arguments.output or source.name)
    output = output / source.name if output.is_dir() else output
    if output.exists():
        raise ValueError(f"{output} exists: name another file")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(source.read_bytes())
    sys.stdout.write(f"{output}\n")


TRAINING_COMMANDS = {
    "train": Command("train a model as described by a recipe", "", add_recipe, run_recipe, keys="train"),
    "pretrain": Command(
        "train a language model from random weights on your own text",
        "smol-hf pretrain --data my.txt --preset smollm-tiny --steps 2000 --output runs/my-text",
        add_pretrain,
        run_pretrain,
        keys="train",
    ),
    "dpo": Command("train a language model on preferences (DPO)", "", add_recipe, run_recipe, keys="dpo"),
}
DEMO = Command(
    "train a tiny model on handwritten digits and report how well it reads them",
    "smol-hf demo --output runs/demo",
    add_demo,
    run_demo,
    keys="train",
)
RECIPE_COMMANDS = {
    "list": Command("list the recipes with their commands", "smol-hf recipes list", add_nothing, list_recipes),
    "show": Command("print a recipe", "smol-hf recipes show quickstart/digits", add_name, show_recipe),
    "copy": Command("copy a recipe to a file", "smol-hf recipes copy text/pretrain my.yaml", add_copy, copy_recipe),
}
