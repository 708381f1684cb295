"""The command pretrain: short names for the keys of a recipe over documents, and the run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "train a language model from random weights on your own text"
EXAMPLE = "smol-hf pretrain --data my.txt --preset smollm-tiny --steps 2000 --output runs/my-text"
RECIPE = ("recipes", "text", "pretrain.yaml")
# Option → key of the recipe, and its help.
OPTIONS = {
    "--data": ("documents", "text file, folder or pattern of such, .jsonl, .parquet, or owner/name on the Hub"),
    "--preset": ("preset", "sizes of the model, such as smollm-tiny or smollm2-135m"),
    "--model": ("model", "language model to go on from, instead of --preset"),
    "--tokenizer": ("tokenizer", "folder or Hub id (by default one is trained on the data)"),
    "--steps": ("max_steps", "steps of the optimizer"),
    "--output": ("output_dir", "folder of checkpoints, log and result"),
    "--context-length": ("context_length", "tokens of a row"),
    "--batch-size": ("per_device_train_batch_size", "rows of a batch"),
    "--learning-rate": ("learning_rate", "at its peak"),
    "--log-interval": ("logging_steps", "steps between two lines of the log"),
    "--num-checkpoints": ("num_checkpoints", "so many checkpoints, evenly spaced"),
    "--save-interval": ("save_steps", "steps between two checkpoints, instead of --num-checkpoints"),
    "--keep": ("save_total_limit", "checkpoints that are kept, the newest"),
    "--text-key": ("text_key", "where the text of a record stands"),
    "--separator": ("document_separator", r"what stands between documents of a text file; \n is a line break"),
    "--validation-data": ("validation_documents", "other texts to validate on"),
    "--seed": ("seed", "of weights and order"),
}


def add_pretrain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="recipe (default recipes/text/pretrain.yaml, which ships with the package)")
    for option, (key, text) in OPTIONS.items():
        parser.add_argument(option, dest=key, metavar=option.strip("-").upper(), help=text)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="true",
        dest="resume_from_checkpoint",
        metavar="CHECKPOINT",
        help="go on from the newest checkpoint of --output, or from the one that is named",
    )
    hub = parser.add_argument_group("when it is done")
    hub.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the result, as smol-hf publish --yes does")
    hub.add_argument("--branch", default="main", help="of that repository (default main)")
    hub.add_argument("--private", action="store_true", help="make that repository for its owner alone")
    hub.add_argument("--token", help="token of the Hub (default: that of this login)")
    hub.add_argument("--license", help="licence for the card, for example apache-2.0")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smol-hf pretrain",
        description=f"{SUMMARY[0].upper()}{SUMMARY[1:]}. Any key of a recipe can be set too, as --key value.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_pretrain(parser)
    return parser


def words_of(arguments: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """The command line of `smol-hf train` that does the same. Raises ValueError where nothing says what to read."""
    from smol_hf.support.resources import resource_path

    of_the_run = Path(arguments.output_dir or "", "recipe.yaml")  # which goes on as it began
    goes_on = arguments.resume_from_checkpoint is not None and arguments.output_dir and of_the_run.is_file()
    words = ["--config", arguments.config or str(of_the_run if goes_on else resource_path(*RECIPE))]
    named = [arguments.documents, arguments.config, *(word for word in more if word.startswith("--documents"))]
    if not goes_on and all(each is None for each in named):
        raise ValueError("--data is missing: name a text file, a folder or a dataset of the Hub")
    keys = [key for key, _ in OPTIONS.values()] + ["resume_from_checkpoint"]
    given = {key: getattr(arguments, key) for key in keys if getattr(arguments, key) is not None}
    if "model" in given and "preset" not in given:
        words.append("--preset=null")  # the recipe's is that of a new model
    if "save_steps" in given and "num_checkpoints" not in given:
        words.append("--num_checkpoints=null")
    return [*words, *(f"--{key}={value}" for key, value in given.items()), *more]


def check_push(arguments: argparse.Namespace) -> None:
    """Refuse before the run what would fail after it. Raises ValueError."""
    from smol_hf.publishing.card_edits import refuse_bad_license
    from smol_hf.publishing.plan import refuse_bad_names

    if arguments.push_to_hub is None:
        return
    if arguments.license is None:
        raise ValueError("--push-to-hub needs --license, for example apache-2.0, which the model's card names")
    refuse_bad_license(arguments.license)
    refuse_bad_names(arguments.push_to_hub, arguments.branch)


def push(arguments: argparse.Namespace, checkpoint: Path) -> None:
    from smol_hf.cli_publish import add_publish, run_publish

    words = [str(checkpoint), arguments.push_to_hub, "--yes", "--shorten-paths", "--branch", arguments.branch]
    words += ["--license", arguments.license, *(["--private"] if arguments.private else [])]
    words += ["--token", arguments.token] if arguments.token is not None else []
    parser = argparse.ArgumentParser()
    add_publish(parser)
    run_publish(parser.parse_args(words))


def main(command_line: Sequence[str]) -> int:
    parser = build_parser()
    if not command_line:
        parser.print_help()
        return 0
    arguments, more = parser.parse_known_args(command_line)
    from smol_hf.train import main as train

    try:
        check_push(arguments)
        after = (lambda checkpoint: push(arguments, checkpoint)) if arguments.push_to_hub is not None else None
        return train(words_of(arguments, more), after=after)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
