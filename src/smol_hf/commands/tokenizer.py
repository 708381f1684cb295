"""The commands `smol-hf tokenizer …`: their options and what they print."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from smol_hf.commands.conversion import finish
from smol_hf.commands.parser import Command
from smol_hf.support.formatting import compact, duration

if TYPE_CHECKING:
    from rich.console import Console

MAX_BYTES = 1_000_000_000


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="text file, folder or pattern of text files, .jsonl, .json or .parquet file, or a Hub dataset",
    )  # fmt: skip
    parser.add_argument(
        "--vocab-size", type=int, default=8192, help="vocabulary size with special tokens (default 8192)"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--text-key", default="text", help="field of a record that holds the text (default text)")
    parser.add_argument(
        "--separator", metavar="STRING", help=r"separator of documents in a text file (\n: line break)"
    )
    parser.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="N",
        help=f"maximum bytes to read from all sources together, 0 for all (default {MAX_BYTES:,})",
    )  # fmt: skip
    parser.add_argument("--config", metavar="NAME", help="configuration of a Hub dataset")
    parser.add_argument("--split", help="split of a Hub dataset (default train)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub dataset")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run_train(arguments: argparse.Namespace) -> None:
    from smol_hf.text.documents.readers import TEXT_KEY, open_documents, unescaped
    from smol_hf.text.tokenizer_training import write_text_tokenizer

    keys = {name: getattr(arguments, name) for name in ("text_key", "config", "split", "revision")}
    if arguments.separator is not None:
        keys["separator"] = unescaped(arguments.separator)
    with progress() as advance:
        facts = write_text_tokenizer(
            [open_documents(source, **keys) for source in arguments.sources],
            arguments.output,
            vocab_size=arguments.vocab_size,
            max_bytes=arguments.max_bytes or None,
            advance=advance,
        )
    read = {"sources": arguments.sources, "separator": arguments.separator}
    read["text_key"] = None if arguments.text_key == TEXT_KEY else arguments.text_key
    finish({**facts, **read}, arguments.json, print_trained)


def print_trained(console: Console, facts: dict[str, Any]) -> None:
    documents = "1 document" if facts["documents"] == 1 else f"{facts['documents']:,} documents"
    lines = [("trained on", f"{facts['bytes']:,} bytes of {documents} in {duration(facts['seconds'])}")]
    if not facts["all_read"]:
        lines.append(("", "the rest of the text was not read: --max-bytes is the limit"))
    if facts["empty_documents"]:
        lines.append(("", f"including {facts['empty_documents']:,} empty documents"))
    lines.append(("vocabulary", f"{facts['vocab_size']:,} tokens"))
    if facts["vocab_size"] < (asked := facts["asked_vocab_size"]):
        lines.append(("", f"{asked:,} were requested, but no other pair occurs twice: give more text"))
    measured = f"measured on the first {facts['measured_bytes']:,} bytes"
    lines.append(("length", f"{facts['bytes_per_token']:.2f} bytes per token, {measured}"))
    lines.append(("written to", facts["output"] + (", replacing the older one" if facts["replaced"] else "")))
    lines.append(("next", next_command(facts)))
    for name, words in lines:
        console.print(f"{name:<10} {words}", soft_wrap=True)


def next_command(facts: dict[str, Any]) -> str:
    keys = {
        "--data": facts["sources"][0],
        "--text_key": facts["text_key"],
        "--document_separator": facts["separator"],
        "--tokenizer": facts["output"],
        "--preset": "smollm-tiny",
        "--text_config.vocab_size": str(facts["vocab_size"]),
        "--output": "runs/text",
    }
    return shlex.join(
        ["smol-hf", "pretrain", *(word for pair in keys.items() if pair[1] is not None for word in pair)]
    )


@contextmanager
def progress() -> Iterator[Callable[[int], None]]:
    """Show the bytes read so far, if there is a terminal. Yields a function that adds bytes."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading")

        def advance(size: int) -> None:
            bar.advance(task, size)
            bar.update(task, description=f"learning from {compact(bar.tasks[task].completed)}B of text")

        yield advance


TOKENIZER_COMMANDS = {
    "train": Command(
        "train a byte-level BPE tokenizer on texts",
        "smol-hf tokenizer train corpus.txt --vocab-size 4096 --output tokenizers/mine",
        add_train,
        run_train,
    )
}
