"""`meta.pkl` of nanoGPT: the characters of a character-level model, in the order of their ids.

It is a pickle, and a pickle may run code when it is loaded. So only dictionaries, lists, texts and whole numbers are
read.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.support.formatting import one_line

FILE_NAME = "meta.pkl"
PLAIN = (dict, list, str, int)
MOST_BYTES = 64 << 20  # all of Unicode needs less
# Errors of the unpickler about a damaged file.
DAMAGES = (
    pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, OverflowError, MemoryError,
    RecursionError, ImportError,
)  # fmt: skip


class PlainUnpickler(pickle.Unpickler):
    """Reads a pickle without classes and functions. So nothing in it can run."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class and function by name."""
        raise ConversionError(f"it contains {module}.{name}, and loading that could run code")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse a reference to an object outside of the file."""
        raise ConversionError("it refers to an object outside of the file")


def find_meta(checkpoint: Path, content: dict) -> Path | None:
    """Return the `meta.pkl` of a checkpoint: next to it, or in `data/<dataset>/` as nanoGPT has it.

    Args:
        content: of the checkpoint; its `config` names the data set.
    """
    config = content.get("config")
    dataset = config.get("dataset") if isinstance(config, dict) else None
    places = [checkpoint.parent]
    if isinstance(dataset, str) and re.fullmatch(r"[\w-][\w.-]*", dataset):  # no path
        roots = (checkpoint.parent, checkpoint.parent.parent, Path())
        places += [root / "data" / dataset for root in roots]
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)


def read_characters(path: Path) -> list[str]:
    """Return the characters of a `meta.pkl` in the order of their ids. Raises ConversionError."""
    meta = read_plain_pickle(path)
    if not isinstance(meta, dict) or not isinstance(meta.get("stoi"), dict):
        raise ConversionError(f"{path}: there is no 'stoi', nanoGPT's dictionary of characters and their ids")
    ids = meta["stoi"]
    for character, number in ids.items():
        if type(character) is not str or type(number) is not int:
            raise ConversionError(f"{path}: 'stoi' has {character!r}: {number!r} instead of a character and its id")
        if len(character) != 1 or 0xD800 <= ord(character) <= 0xDFFF:
            raise ConversionError(f"{path}: the token {character!r} is not one character: give another --tokenizer")
    characters = sorted(ids, key=ids.__getitem__)
    if [ids[each] for each in characters] != list(range(len(characters))):
        raise ConversionError(f"{path}: the {len(characters)} ids of 'stoi' are not 0 to {len(characters) - 1}")
    backward = meta.get("itos", dict(enumerate(characters)))
    if isinstance(backward, list):
        backward = dict(enumerate(backward))
    if backward != dict(enumerate(characters)):
        raise ConversionError(f"{path}: 'itos' and 'stoi' contradict each other")
    if meta.get("vocab_size", len(characters)) != len(characters):
        raise ConversionError(
            f"{path}: vocab_size is {meta['vocab_size']}, but 'stoi' has {len(characters)} characters"
        )
    return characters


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of dictionaries, lists, texts and whole numbers. Raise ConversionError for anything else."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ConversionError(f"{path}: refused, it has {size:,} bytes, more than a list of characters needs")
        content = path.read_bytes()
        refuse_large_numbers(content)
        value = PlainUnpickler(io.BytesIO(content)).load()
    except ConversionError as error:
        raise ConversionError(f"{path}: refused, {error}") from None
    except DAMAGES as error:
        raise ConversionError(f"{path}: not a readable pickle ({one_line(error) or type(error).__name__})") from error
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    refuse_other_values(path, value)
    return value


def refuse_large_numbers(content: bytes) -> None:
    """Raise ConversionError for a large place in the memo, which costs memory, and for an id of many digits."""
    for opcode, argument, _ in pickletools.genops(content):
        if not isinstance(argument, int):
            continue
        is_place = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if abs(argument) > (len(content) if is_place else 2**63):
            raise ConversionError(f"{opcode.name} has a number that no list of characters needs")


def refuse_other_values(path: Path, value: Any) -> None:
    """Raise ConversionError, naming the type, for a value inside of `value` that is not plain."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if type(each) not in PLAIN:
            raise ConversionError(f"{path}: refused, it contains a {type(each).__name__}")
        if isinstance(each, (dict, list)) and id(each) not in seen:
            seen.add(id(each))
            waiting += [*each.keys(), *each.values()] if isinstance(each, dict) else each
