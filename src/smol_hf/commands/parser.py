"""Parser of a command: options with hyphens or underscores, recipe keys as options, hints for misspelt words."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from smol_hf.support.formatting import nearest
from smol_hf.training.recipe.key_help import command_with, help_text, known_keys

if TYPE_CHECKING:
    from rich.table import Table

OPTION = re.compile(r"--([A-Za-z_][\w.-]*)(=.*)?", flags=re.DOTALL)

RECIPE_KEYS = "Set any other recipe key as --key value, such as --weight_decay 0.05 or --filters.max_turns 3."


class Command(NamedTuple):
    """A command with its help, its options and its work.

    With `describe`, `run` returns facts. They are printed as the parts that `describe` yields, or as JSON. Without it,
    `run` returns an exit code, None for 0.
    """

    summary: str
    example: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], Any]
    describe: Callable[[dict[str, Any]], Iterable[str | Table]] | None = None
    keys: str = ""  # `train` or `dpo`: its recipe keys are also options


class Group(NamedTuple):
    """Commands that share their first word, such as `data`."""

    summary: str
    commands: dict[str, Command]


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of text and tables")


def options_of(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors show its own usage. Hyphens and underscores in options are the same.

    Args:
        keys: command whose recipe keys are also options. The result has their words as `recipe_words`, and `usage`.
    """

    def __init__(self, *args: Any, keys: str = "", **more: Any):
        super().__init__(*args, allow_abbrev=not keys, **more)
        self.keys = keys
        self.lists_keys = False  # in the help
        self.commands: dict[str, Parser] = {}

    def add_commands(self, commands: Mapping[str, Command | Group], dest: str) -> None:
        """Add a parser for each command. The chosen name becomes the attribute `dest` of the result."""
        added = self.add_subparsers(dest=dest, metavar="COMMAND", required=True)
        for name, command in commands.items():
            description = f"{command.summary[0].upper()}{command.summary[1:]}."
            look = {"help": command.summary, "formatter_class": argparse.RawDescriptionHelpFormatter}
            if isinstance(command, Group):
                parser = added.add_parser(name, description=description, **look)
                parser.add_commands(command.commands, "subcommand")
            else:
                parser = added.add_parser(
                    name, description=description, epilog=f"example:\n  {command.example}", keys=command.keys, **look
                )
                command.add_arguments(parser)
                if command.describe is not None:
                    add_json(parser)
                if command.keys:
                    parser.add_argument_group("recipe keys", RECIPE_KEYS)
            self.commands[name] = parser

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        words = list(sys.argv[1:] if args is None else args)
        if self.commands:
            if words and not words[0].startswith("-") and words[0] not in self.commands:
                self.error(f"unknown command {words[0]!r}{self.hint(words[0], self.commands)}")
            return super().parse_known_args(words, namespace)
        words, recipe_words = self.split(words)
        namespace, unknown = super().parse_known_args(words, namespace or argparse.Namespace())
        if unknown:
            self.refuse(unknown[0])
        if self.keys:
            namespace.recipe_words, namespace.usage = recipe_words, self.format_usage()
        return namespace, unknown

    def split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Return the words for argparse, with options as they are declared, and the words of recipe keys."""
        kept: list[str] = []
        recipe_words: list[str] = []
        known, given = known_keys(self.keys) if self.keys else (), set()
        own = self._option_string_actions
        while words:
            word = words.pop(0)
            if word == "--":
                kept += [word, *words]
                break
            if (match := OPTION.fullmatch(word)) is None:
                kept.append(word)
                continue
            name, value = match[1], match[2] or ""
            option = f"--{name.replace('_', '-')}"
            if option in own:
                kept.append(option + value)
                if self.lists_keys and option in given:  # as for any key of these commands
                    self.error(f"{option} is given twice")
                given.add(option)
            elif not self.keys:
                kept.append(word)
            elif name.partition(".")[0].replace("-", "_") not in known:
                self.refuse(word)
            else:
                recipe_words.append(word)
                if not value and words and not words[0].startswith("--"):
                    recipe_words.append(words.pop(0))
        return kept, recipe_words

    def refuse(self, word: str) -> None:
        """Exit with an error about a word that is not an argument of this command."""
        name = word.partition("=")[0]
        if not name.startswith("-"):
            self.error(f"unexpected argument {word!r}" + (": write --key value" if self.keys else ""))
        top = name.partition(".")[0]
        options = [option for option in self._option_string_actions if option.startswith("--")]
        options += [f"--{key}" for key in known_keys(self.keys)] if self.keys else []
        other = command_with(top[2:].replace("-", "_")) if self.keys else ""
        self.error(f"unknown option {top}{other or self.hint(top, options)}")

    def hint(self, word: str, known: Iterable[str]) -> str:
        """Name the known word that is most similar, or the help."""
        return nearest(word, list(known)) or f": {self.prog} --help lists them"

    def format_help(self) -> str:
        return help_text(self.keys) if self.lists_keys else super().format_help()

    def offer_keys(self) -> None:
        """Declare the recipe keys as options, for the completion of a shell."""
        for command in self.commands.values():
            command.offer_keys()
        for key in known_keys(self.keys) if self.keys else ():
            if f"--{key.replace('_', '-')}" not in self._option_string_actions:
                self.add_argument(f"--{key}")
