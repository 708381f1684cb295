"""The command export: its options and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smol_hf.commands.conversion import add_hub_arguments, add_output, describe_comparison, hide_bars_of_loading
from smol_hf.commands.parser import Command
from smol_hf.support.formatting import compact

if TYPE_CHECKING:
    from rich.table import Table

TARGET_NAMES = ("native", "onnx", "page")
PRECISIONS = ("fp32", "q8", "q4")


def add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a smol_hf checkpoint or adapter")
    add_output(parser)
    add("--to", required=True, choices=TARGET_NAMES, help="format to write")
    add(
        "--no-compare", dest="compared", action="store_false", help="do not ask the engine and the checkpoint the same"
    )
    prompts_help = "prompts to compare, as for smol-hf generate (default: 20 pages of digits, or 6 texts)"
    add("--prompts-file", type=Path, metavar="FILE", help=prompts_help)
    precisions_help = "onnx and page: precisions of the graphs (default: fp32 q8)"
    add("--precisions", nargs="+", choices=PRECISIONS, help=precisions_help)
    engine_help = "page: node_modules with transformers.js (default: downloaded from the npm registry once)"
    add("--transformers-js", metavar="FOLDER", help=engine_help)
    examples_help = "page: prompts shown as examples, or none (default: samples of the training data)"
    add("--examples", metavar="FILE", help=examples_help)
    add("--title", help="page: its heading (default: A small model)")
    add_hub_arguments(parser)


def run_export(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.export.export import export

    hide_bars_of_loading()
    return export(**{name: value for name, value in vars(arguments).items() if name not in ("command", "json")})


def describe_export(facts: dict[str, Any]) -> Iterator[str | Table]:
    from rich.table import Column, Table

    table = Table("file", Column("bytes", justify="right"))
    for name, size in facts["files"].items():
        table.add_row(name, f"{compact(size)}B")
    yield table
    yield from (f"note: {note}" for note in facts["notes"])
    yield f"written to {facts['output']} in {facts['seconds']} s"
    if facts["comparison"] is not None:
        yield from describe_comparison(facts["comparison"])
    yield "run it:"
    yield from (f"  {command}" for command in facts["commands"])


EXPORT = Command(
    "write a checkpoint in the format of another engine, and compare the answers",
    "smol-hf export runs/demo/checkpoint exported --to native",
    add_export,
    run_export,
    describe_export,
)
