"""The commands `smol-hf tokenizer …`: their options and what they print."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

from smol_hf.commands.parser import Command, options_of
from smol_hf.commands.printing import progress
from smol_hf.support.formatting import counted, duration

MAX_BYTES = 1_000_000_000


def add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sources_help = "text file, folder or pattern of text files, .jsonl, .json or .parquet file, or a Hub dataset"
    add("sources", nargs="+", metavar="SOURCE", help=sources_help)
    add("--vocab-size", type=int, default=8192, help="vocabulary size with special tokens (default 8192)")
    add("--output", required=True, metavar="FOLDER", help="folder to write")
    add("--text-key", default="text", help="field of a record that holds the text (default text)")
    add("--document-separator", metavar="STRING", help=r"separator of documents in a text file (\n: line break)")
    bytes_help = f"maximum bytes to read from all sources together, 0 for all (default {MAX_BYTES:,})"
    add("--max-bytes", type=int, default=MAX_BYTES, metavar="N", help=bytes_help)
    add("--config", metavar="NAME", help="configuration of a Hub dataset")
    add("--split", help="split of a Hub dataset (default train)")
    add("--revision", help="branch, tag or commit of a Hub dataset")


def run_train(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.text.documents.readers import TEXT_KEY, open_documents, unescaped
    from smol_hf.text.tokenizer_training import write_text_tokenizer

    keys = options_of(arguments, "text_key", "config", "split", "revision")
    if arguments.document_separator is not None:
        keys["separator"] = unescaped(arguments.document_separator)
    with progress("learning from text") as advance:
        facts = write_text_tokenizer(
            [open_documents(source, **keys) for source in arguments.sources],
            arguments.output,
            vocab_size=arguments.vocab_size,
            max_bytes=arguments.max_bytes or None,
            advance=advance,
        )
    text_key = None if arguments.text_key == TEXT_KEY else arguments.text_key
    return {**facts, "sources": arguments.sources, "separator": arguments.document_separator, "text_key": text_key}


def describe_trained(facts: dict[str, Any]) -> Iterator[str]:
    documents = counted(facts["documents"], "document")
    lines = [("trained on", f"{facts['bytes']:,} bytes of {documents} in {duration(facts['seconds'])}")]
    if not facts["all_read"]:
        lines.append(("", "the rest of the text was not read: --max-bytes is the limit"))
    if facts["empty_documents"]:
        lines.append(("", f"including {counted(facts['empty_documents'], 'empty document')}"))
    lines.append(("vocabulary", f"{facts['vocab_size']:,} tokens"))
    if facts["vocab_size"] < (asked := facts["asked_vocab_size"]):
        lines.append(("", f"{asked:,} were requested, but no other pair occurs twice: give more text"))
    measured = f"measured on the first {facts['measured_bytes']:,} bytes"
    lines.append(("length", f"{facts['bytes_per_token']:.2f} bytes per token, {measured}"))
    lines.append(("written to", facts["output"] + (", replacing the older one" if facts["replaced"] else "")))
    lines.append(("next", next_command(facts)))
    yield from (f"{name:<10} {words}" for name, words in lines)


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
    given = [word for pair in keys.items() if pair[1] is not None for word in pair]
    return shlex.join(["smol-hf", "pretrain", *given])


TOKENIZER_COMMANDS = {
    "train": Command(
        "train a byte-level BPE tokenizer on texts",
        "smol-hf tokenizer train corpus.txt --vocab-size 4096 --output tokenizers/mine",
        add_train,
        run_train,
        describe_trained,
    )
}
