"""The command export: its options and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smol_hf.commands.conversion import add_hub_arguments, add_output, hide_bars_of_loading
from smol_hf.commands.parser import Command
from smol_hf.commands.printing import print_facts
from smol_hf.support.formatting import counted, data_size

if TYPE_CHECKING:
    from rich.table import Table

TARGET_NAMES = ("native", "gguf", "onnx", "page", "mlx")
PRECISIONS = ("fp32", "q8", "q4")


def add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a smol_hf checkpoint or adapter")
    add_output(parser)
    add("--to", required=True, choices=TARGET_NAMES, help="format to write")
    compare_help = "do not compare the engine's answers with the checkpoint's"
    add("--no-compare", dest="compared", action="store_false", help=compare_help)
    prompts_help = "prompts to compare, as for smol-hf generate (default: 20 pages of digits, or 6 texts)"
    add("--prompts-file", type=Path, metavar="FILE", help=prompts_help)
    add_gguf_arguments(parser)
    precisions_help = "onnx and page: precisions of the graphs (default: fp32 q8)"
    add("--precisions", nargs="+", choices=PRECISIONS, help=precisions_help)
    engine_help = "page: node_modules with transformers.js (default: downloaded from the npm registry once)"
    add("--transformers-js", metavar="FOLDER", help=engine_help)
    examples_help = "page: prompts shown as examples, or none (default: samples of the training data)"
    add("--examples", metavar="FILE", help=examples_help)
    add("--title", help="page: heading of the page (default: A small model)")
    add_hub_arguments(parser)


def add_gguf_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("options of --to gguf").add_argument
    add("--quantization", metavar="TYPE", help="type of the language model: f16 (default), f32, bf16 or q8_0")
    add("--mmproj-type", metavar="TYPE", help="type of the image encoder and connector: f16 (default) or f32")
    add("--llama-cpp", metavar="DIR", help="sources of llama.cpp, for their converter (default: a pinned release)")


def run_export(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.export.export import export
    from smol_hf.training.checkpoint.interruption import terminable

    hide_bars_of_loading()
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "json")}
    with terminable():  # so that SIGTERM removes incomplete files
        return export(**options)


def describe_export(facts: dict[str, Any]) -> Iterator[str | Table]:
    from rich.table import Column, Table

    table = Table("file", Column("size", justify="right"))
    for name, size in facts["files"].items():
        table.add_row(name, data_size(size))
    yield table
    yield from (f"note: {note}" for note in facts["notes"])
    yield f"written to {facts['output']} in {facts['seconds']} s"
    if facts["comparison"] is not None:
        yield from describe_comparison(facts["comparison"])
    yield "run it:"
    yield from (f"  {command}" for command in facts["commands"])


def check_export(arguments: argparse.Namespace) -> None:
    """Compare an exported folder with its source."""
    from smol_hf.export.comparison import compare_folder

    facts = compare_folder(arguments.source, arguments.checkpoint, arguments.prompts_file)
    print_facts(facts, arguments.json, describe_comparison)
    if "not_compared" in facts:
        raise ValueError(f"{arguments.checkpoint} was not compared with {arguments.source}: see above")
    if facts["equal"] != facts["prompts"]:
        raise ValueError(f"{arguments.checkpoint} does not answer like {arguments.source}: see above")


def describe_comparison(facts: dict) -> Iterator[str]:
    """Describe the result of `compare`."""
    if "not_compared" in facts:
        yield f"not compared with the checkpoint: {facts['not_compared']}"
        return
    total = facts["prompts"]
    yield f"{facts['engine']}: {facts['equal']} of {counted(total, 'prompt')} with the greedy tokens of the checkpoint"
    yield f"  the checkpoint gave {counted(facts['answers'], 'different answer')}"
    if facts["equal_prompts"] is not None:
        yield f"  prompts of equal length: {facts['equal_prompts']} of {total}"
    if facts["difference"] is not None:
        yield f"  largest difference of a log probability: {facts['difference']:.2g}"
    if facts["note"] is not None:
        yield f"  note: {facts['note']}"
    for own, other in facts["differing"]:
        yield f"  checkpoint {own}, export {other}"
    for name, other in facts["variants"].items():
        yield f"{facts['engine']}, {name}: {other['equal']} of {counted(total, 'prompt')} with the greedy tokens"
        if other["difference"] is not None:
            yield f"  largest difference of a log probability: {other['difference']:.2g}"


EXPORT = Command(
    "write a checkpoint in the format of another engine, and compare the answers",
    "smol-hf export runs/demo/checkpoint exported --to native",
    add_export,
    run_export,
    describe_export,
)
