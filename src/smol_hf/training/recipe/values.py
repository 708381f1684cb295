"""Values of a recipe: read from YAML, or from the command line by the type of their key."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from smol_hf.data.conversation import SampleError


class RecipeError(ValueError):
    """A recipe or a command line that cannot be used. The message names the key and the remedy."""


class UsageError(RecipeError):
    """A misspelt, incomplete or repeated key. Commands print their usage before the message."""


class UnusableYamlError(yaml.YAMLError):
    """YAML with a duplicate key, with a key that is a list or a mapping, or nested too deeply."""


class StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys and reads scalars as YAML 1.2.

    YAML 1.1 reads `no` and `on` as booleans, `12:30`, `0x10` and `010` as other numbers, `2024-01-01` as a date, and
    `1e-3` as text.
    """

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if not tag.endswith((":int", ":float", ":timestamp")) and (first in "tTfF" or not tag.endswith(":bool"))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise UnusableYamlError(f"line {line}: a key is a single word, not a list or a mapping: {key!r}")
            if key in lines:
                raise UnusableYamlError(f"duplicate key {key!r} in lines {lines[key]} and {line}: remove one of them")
            lines[key] = line
        return super().construct_mapping(node, deep)


WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
NUMBER = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", WHOLE, list("-+0123456789"))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789."))


class TextLoader(yaml.SafeLoader):
    """YAML loader that reads every scalar as text."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}


def read_yaml(text: str, loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """Read a YAML text. Raises yaml.YAMLError for text that is not YAML or is nested too deeply."""
    try:
        return yaml.load(text, loader)
    except RecursionError:
        raise UnusableYamlError("lists or mappings are nested too deeply: write fewer levels") from None


def read_file(path: Path) -> Any:
    """Read a YAML or JSON file. Raises RecipeError, naming the file."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else read_yaml(text)  # YAML refuses the tabs of JSON
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise RecipeError(f"{path}: {error}") from error


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a key may have, without None."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return tuple(each for each in typing.get_args(annotation) if each is not types.NoneType)
    return (annotation,)


def value_of(text: str, annotation: Any) -> Any:
    """Convert a word of the command line to the value of a key of this type.

    Text stays as it is written, quotes and `#` included; `null` is None. Lists (`[a, b]`) and mappings (`{a: 1}`) are
    read as YAML, the texts of a list of texts as they are written. Anything else is a scalar of YAML, or text that is
    refused later. Raises yaml.YAMLError for a list or a mapping that is not closed, or has a duplicate key.
    """
    kinds = kinds_of(annotation)
    containers = {typing.get_origin(kind) or kind: kind for kind in kinds}
    if text == "null":
        return None
    if list in containers:
        inner = typing.get_args(containers[list])
        if text.startswith("["):
            return read_yaml(text, TextLoader if inner == (str,) else StrictLoader)
        if inner and inner[0] in (str, int, float):
            return value_of(text, inner[0])
        return text  # a file that holds the list
    if dict in containers and text.startswith("{"):
        return read_yaml(text)
    if str in kinds:
        return text
    if Any in kinds and text.startswith(("[", "{", '"', "'")):
        return read_yaml(text)
    # A number, true, false, null or text, none of it cut at a `#` or a colon.
    loader = StrictLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


@contextmanager
def recipe_errors(problem: str) -> Iterator[None]:
    """Turn errors of libraries about values of the recipe into a RecipeError that begins with `problem`."""
    try:
        yield
    except (RecipeError, SampleError, FileNotFoundError):
        raise
    except (
        ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, ImportError, OSError, RuntimeError,
    ) as error:  # fmt: skip
        raise RecipeError(f"{problem}: {type(error).__name__}: {error}") from error
