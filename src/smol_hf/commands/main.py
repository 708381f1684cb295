# PYTHON_ARGCOMPLETE_OK
"""The command `smol-hf`: parse the command line and run the command."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from smol_hf import __version__
from smol_hf.commands.conversion import CONVERSION_COMMANDS
from smol_hf.commands.data import DATA_COMMANDS
from smol_hf.commands.estimating import ESTIMATE
from smol_hf.commands.evaluation import EVALUATE
from smol_hf.commands.exporting import EXPORT
from smol_hf.commands.generation import GENERATION_COMMANDS
from smol_hf.commands.parser import Command, Group, Parser
from smol_hf.commands.printing import print_facts
from smol_hf.commands.publishing import PUBLISHING_COMMANDS
from smol_hf.commands.runs import RUN_COMMANDS
from smol_hf.commands.tokenizer import TOKENIZER_COMMANDS
from smol_hf.commands.training import DEMO, RECIPE_COMMANDS, TRAINING_COMMANDS

COMMANDS: dict[str, Command | Group] = {
    **TRAINING_COMMANDS,
    **GENERATION_COMMANDS,
    "evaluate": EVALUATE,
    "demo": DEMO,
    **CONVERSION_COMMANDS,
    "estimate": ESTIMATE,
    "export": EXPORT,
    **PUBLISHING_COMMANDS,
    "data": Group("list, preview, measure and prepare data", DATA_COMMANDS),
    "recipes": Group("list, show and copy the recipes that ship with the package", RECIPE_COMMANDS),
    "runs": Group("list, show and compare runs by their logs", RUN_COMMANDS),
    "tokenizer": Group("train tokenizers", TOKENIZER_COMMANDS),
}


def build_parser() -> Parser:
    parser = Parser(
        prog="smol-hf",
        description="Small vision-language and language models, native to Hugging Face transformers.",
        epilog="smol-hf COMMAND --help shows a command with an example.",
    )
    parser.add_argument("--version", action="version", version=f"smol_hf {__version__}")
    parser.add_commands(COMMANDS, "command")
    return parser


def with_new_spelling(words: list[str]) -> list[str]:
    """Replace `demo CHECKPOINT`, the old spelling of `serve CHECKPOINT`, with a hint on stderr."""
    if words[:1] != ["demo"] or len(words) < 2 or words[1].startswith("-"):
        return words
    sys.stderr.write("hint: smol-hf demo CHECKPOINT is now smol-hf serve CHECKPOINT\n")
    return ["serve", *words[1:]]


def complete(parser: Parser) -> None:
    """Answer a shell that asks for completions (argcomplete), and exit."""
    import argcomplete

    parser.offer_keys()
    argcomplete.autocomplete(parser)


def quiet_libraries() -> None:
    """Hide messages of libraries that do not help a user of a command."""
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a missing faster kernel


def main(command_line: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code. Raises SystemExit for help and for errors in the command line."""
    words = sys.argv[1:] if command_line is None else list(command_line)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # some terminals cannot show the symbols of a table
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        complete(parser)
    if len(words) == 1 and words[0] in TRAINING_COMMANDS:
        words = [*words, "--help"]
    arguments = parser.parse_args(with_new_spelling(words))
    command = COMMANDS[arguments.command]
    if isinstance(command, Group):
        command = command.commands[arguments.subcommand]
    quiet_libraries()
    try:
        result = command.run(arguments)
        if command.describe is None:
            return result or 0
        print_facts(result, arguments.json, command.describe)
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        from smol_hf.training.recipe.values import UsageError

        usage = getattr(arguments, "usage", "") if isinstance(error, UsageError) else ""
        sys.stderr.write(f"{usage}error: {error}\n")
        return 1
    except KeyboardInterrupt as error:
        return getattr(error, "code", 130)


if __name__ == "__main__":
    sys.exit(main())
