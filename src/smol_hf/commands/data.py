"""The commands `smol-hf data …`: their options and functions."""

from __future__ import annotations

import argparse
import re
from typing import Any

from smol_hf.commands import printing
from smol_hf.commands.download import add_download, run_download
from smol_hf.commands.parser import Command, options_of
from smol_hf.support.formatting import counted

UNSURVEYED = 10_000  # records per source that `stats` reads of remote data, unless --number says more


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="RECIPE", help="also list the entries of this recipe's mixture")


def run_list(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.data.records.registry import catalog

    facts = catalog()
    if arguments.config is not None:
        from smol_hf.training.inspection import list_entries, read_keys

        facts["mixture"] = list_entries(read_keys(arguments.config, {}, arguments.recipe_words))
    return facts


def add_preview(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--number", type=int, default=20, help="samples to show (default 20)")
    parser.add_argument("--output", default="preview.html", help="file to write (default preview.html)")
    parser.add_argument("--seed", type=int, help="seed of the sample order (default: the recipe's)")


def run_preview(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.data.report.preview_drawing import draw_samples
    from smol_hf.data.report.preview_page import write_page
    from smol_hf.support.tokenizer_of import is_language_model
    from smol_hf.training.inspection import inspect
    from smol_hf.training.log.startup_summary import describe_images, describe_videos

    refuse_bad_number(arguments)
    found = inspect(keys_of(arguments), seed=arguments.seed)
    drawn = draw_samples(found.plan, arguments.number)
    facts = {
        "seed": str(found.seed),
        "context length": f"{found.plan.context_length:,} tokens",
        "tokenizer": found.tokenizer,
    }
    if found.held_out is not None:
        facts["held out"] = found.held_out
    if not is_language_model(found.processor):
        facts["images"] = describe_images(found.processor)
    reader = {}
    if any(sample.conversation.videos for sample in drawn.samples):
        facts["videos"] = reader["videos"] = describe_videos(found.processor)
    title = arguments.config if arguments.data is None else arguments.data
    page = write_page(arguments.output, drawn, found.data, found.plan, title=title, facts=facts)
    if not drawn.samples:
        raise ValueError(f"no record is usable: {page} lists the reasons; the first: {drawn.left_out[0]}")
    return {
        "output": str(page),
        "shown": len(drawn.samples),
        "left_out": len(drawn.left_out),
        "repeated": drawn.repeated,
        "drawn": sum(drawn.drawn.values()),
        "bytes": page.stat().st_size,
        **reader,
    }


def add_stats(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--number", type=int, help="read only the first NUMBER records of each source")
    parser.add_argument("--verify-images", action="store_true", help="decode each image to find damaged ones")
    parser.add_argument("--plot", metavar="FILE", help="draw the distributions (.png, .svg or .pdf)")


def run_stats(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.data.report.statistics import packing_forecast, statistics
    from smol_hf.data.stream.survey import survey
    from smol_hf.training.inspection import inspect

    refuse_bad_number(arguments)
    number = arguments.number
    found = inspect(keys_of(arguments))
    if not any(map(len, found.plan.sources)):
        raise ValueError(f"{arguments.data or arguments.config} holds no record: name data with records")
    if number is None and not found.data.surveyed:
        number = UNSURVEYED
    if number is not None:
        found = found.first(number)
    with printing.progress("measuring", sum(map(len, found.plan.sources))) as advance:
        surveyed = survey(found.plan, verify_images=arguments.verify_images, advance=advance)
    counts = statistics(found.plan, surveyed)
    if not counts["all"]["usable"]:
        first = counts["all"]["reasons"][0]["example"]
        records = counted(counts["all"]["records"], "record", "is/are")
        raise ValueError(f"none of {records} usable; the first: {first['sample']}: {first['reason']}")
    facts: dict[str, Any] = {
        "context_length": found.plan.context_length,
        "tokenizer": found.tokenizer,
        "held_out": found.held_out,
        "first": number,
        **counts,
        "packing": packing_forecast(found.plan, surveyed, found.data_arguments.packing_pool),
    }
    if arguments.plot is not None:
        from smol_hf.data.report.statistics_plot import plot_statistics

        facts["plot"] = str(plot_statistics(arguments.plot, found.plan, surveyed))
    return facts


def add_prepare(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    add = parser.add_argument
    add("--output", required=True, metavar="FOLDER", help="folder to write; must be empty or missing")
    add("--format", choices=["parquet", "llava"], default="parquet", help="file format (default parquet)")
    add("--rows-per-shard", type=int, help="samples per parquet file (default: about 500 MB)")
    add("--verify-images", action="store_true", help="decode each image and leave out damaged ones")
    add("--shard", type=shard_of, metavar="K/N", help="write only the K-th of N parts of the rows (default: all rows)")
    outside_help = "also copy images that are outside the image folder (default: an error)"
    add("--allow-outside", action="store_true", help=outside_help)


def run_prepare(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.data.prepare import prepare
    from smol_hf.training.inspection import open_recipe

    data, *_ = open_recipe(keys_of(arguments))
    options = options_of(arguments, "rows_per_shard", "verify_images", "allow_outside", "shard")
    shards = 1 if arguments.shard is None else arguments.shard[1]
    with printing.progress("preparing", sum(map(len, data.sources)) // shards) as advance:
        return prepare(data, arguments.output, form=arguments.format, **options, advance=advance)


def shard_of(text: str) -> tuple[int, int]:
    """Parse `K/N`."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N, such as 3/16: K is from 1 to N")
    return int(numbers[1]), int(numbers[2])


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", nargs="?", metavar="DATA", help="file or folder of records, or digits")
    add("--config", metavar="RECIPE", help="recipe that gives data, filters and model")
    add("--adapter", help="reader of the records (default: chosen by their keys)")
    add("--image-folder", help="base folder of image paths (default: the folder of the data)")
    add("--set", action="append", default=[], help=argparse.SUPPRESS)  # an older spelling of keys


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", help="folder or Hub id of the checkpoint whose processor counts the tokens")
    add("--preset", help="a published model's sizes instead of --model, such as smolvlm2-256m")
    add("--tokenizer", help="tokenizer for --preset: folder or Hub id (default: train a small one)")
    add("--context-length", type=int, help="maximum tokens per sample (default: the model's)")


def refuse_bad_number(arguments: argparse.Namespace) -> None:
    if arguments.number is not None and arguments.number < 1:
        raise ValueError(f"--number is {arguments.number}: it must be at least 1")


def keys_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merge the recipe and the arguments. Raises ValueError when they name no data."""
    from smol_hf.training.inspection import read_keys

    for setting in arguments.set:
        if not setting.partition("=")[1] or setting.startswith("-"):
            raise ValueError(f"--set {setting}: write --{setting.lstrip('-')} VALUE")
    names = ("data", "adapter", "image_folder", "model", "preset", "tokenizer", "context_length")
    keys = {name: getattr(arguments, name, None) for name in names}
    words = [*(f"--{setting}" for setting in arguments.set), *arguments.recipe_words]
    recipe = read_keys(arguments.config, keys, words)
    if arguments.config is None and all(recipe.get(name) is None for name in ("data", "mixture", "documents")):
        raise ValueError("data is missing: name a file or folder of records, or a recipe with --config")
    return recipe


DATA_COMMANDS = {
    "list": Command(
        "list known datasets and adapters, and the sources of a recipe",
        "smol-hf data list --config recipes/quickstart/digits.yaml",
        add_list,
        run_list,
        printing.describe_list,
        keys="train",
    ),
    "preview": Command(
        "write an HTML page of samples as the model gets them",
        "smol-hf data preview my.jsonl --model runs/demo/checkpoint --output preview.html",
        add_preview,
        run_preview,
        printing.describe_preview,
        keys="train",
    ),
    "download": Command(
        "download Hub datasets or archives, after a check of sizes, licences and disk space",
        "smol-hf data download HuggingFaceM4/COCO --output data --extract",
        add_download,
        run_download,
    ),
    "stats": Command(
        "count samples, tokens and image tiles, and estimate how full packed rows are",
        "smol-hf data stats my.jsonl --model runs/demo/checkpoint",
        add_stats,
        run_stats,
        printing.describe_stats,
        keys="train",
    ),
    "prepare": Command(
        "write the usable samples as parquet shards or LLaVA files",
        "smol-hf data prepare my.jsonl --output prepared --format llava",
        add_prepare,
        run_prepare,
        printing.describe_prepared,
        keys="train",
    ),
}
