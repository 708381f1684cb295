"""The commands of `smol-hf` that turn checkpoints into others: what they take, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder, .pt file or Hub id of a checkpoint")
    parser.add_argument("output", help="folder to write; must not hold anything yet")
    parser.add_argument("--to", help="for a checkpoint of ours: native (default), smolvlm, llama, smollm3 or gpt2")
    add_hub_arguments(parser)
    parser.add_argument("--tokenizer", help="folder or Hub id of a tokenizer to put beside the weights")
    parser.add_argument("--num-attention-heads", type=int, help="of a plain .pt file, which does not say it")
    parser.add_argument("--rope-theta", type=float, help="of a plain Llama-style .pt file (default 10000)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--token", help="token for gated or private repositories")
    parser.add_argument("--local-files-only", action="store_true", help="use what is in the local cache already")


def run_convert(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.convert import convert

    names = (
        "source", "output", "to", "revision", "token", "local_files_only", "tokenizer", "num_attention_heads",
        "rope_theta",
    )  # fmt: skip
    facts = convert(**{name: getattr(arguments, name) for name in names})
    finish(facts, arguments.json, print_conversion)


def print_conversion(console: Console, facts: dict) -> None:
    console.print(f"{facts['source']} → {facts['target']}: {facts['tensors']} tensors in {facts['seconds']} s")
    print_parameters(console, facts["parameters"])
    console.print(f"written to {facts['output']}", soft_wrap=True)


def print_parameters(console: Console, parameters: dict[str, int]) -> None:
    table = Table()
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, number in parameters.items():
        if part == "total":
            table.add_section()
        table.add_row(part, f"{number:,}")
    console.print(table)


def finish(facts: dict, as_json: bool, show: Callable[[Console, dict], None]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        show(Console(highlight=False), facts)
