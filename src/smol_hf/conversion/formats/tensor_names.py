"""Names of tensors in other formats and in ours: one table serves both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why, and what would work."""


class Renaming:
    """A table of tensor names.

    Args:
        rows: pairs (theirs, ours); `{i}` matches a number. A row that ends with a dot renames a prefix, another row a
            complete name. The first matching row applies, so several of their names may become one of ours.
        ignored: regular expressions of their tensors that are not kept (masks, position numbers).
    """

    def __init__(self, rows: Iterable[tuple[str, str]], ignored: Iterable[str] = ()):
        rows = list(rows)
        self.there = [(_pattern(theirs), ours) for theirs, ours in rows]
        self.back = [(_pattern(ours), theirs) for theirs, ours in rows]
        self.ignored = [re.compile(pattern) for pattern in ignored]

    def to_ours(self, tensors: dict) -> dict:
        """Rename their tensors. Raise ConversionError if a name is unknown, or two names become one."""
        kept = {name: tensor for name, tensor in tensors.items() if not any(p.search(name) for p in self.ignored)}
        return _rename(kept, self.there)

    def to_theirs(self, tensors: dict) -> dict:
        """Rename our tensors. Raise ConversionError as `to_ours` does."""
        return _rename(tensors, self.back)


def _pattern(row: str) -> re.Pattern:
    return re.compile(re.escape(row).replace(r"\{i\}", r"(\d+)") + ("(.+)" if row.endswith(".") else "$"))


def _rename(tensors: dict, rows: list[tuple[re.Pattern, str]]) -> dict:
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        new = _new_name(name, rows)
        if new is None:
            unknown.append(name)
        elif new in renamed:
            raise ConversionError(f"two tensors would both be {new}; the second is {name}")
        else:
            renamed[new] = tensor
    if unknown:
        raise ConversionError(f"{len(unknown)} tensors belong to no known part, first {unknown[0]}")
    return renamed


def _new_name(name: str, rows: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, template in rows:
        match = pattern.match(name)
        if match:
            parts = list(match.groups())
            while "{i}" in template:
                template = template.replace("{i}", parts.pop(0), 1)
            return template + "".join(parts)
    return None


def settle_head(tensors: dict, config, prefix: str = "") -> None:
    """Remove the head if it is tied to the embeddings.

    A head that is declared tied but differs is kept, and declared untied: transformers computes with it too.
    """
    text = config.get_text_config()
    head, embeddings = tensors.get(f"{prefix}lm_head.weight"), tensors.get(f"{prefix}model.embed_tokens.weight")
    if head is None or not text.tie_word_embeddings:
        return
    if embeddings is None or head.is_meta or (head.shape == embeddings.shape and torch.equal(head, embeddings)):
        del tensors[f"{prefix}lm_head.weight"]
    else:
        text.tie_word_embeddings = config.tie_word_embeddings = False


def reader_of(names: Renaming, prefix: str = "") -> Callable[[dict, Any], dict]:
    """Return the function (their tensors, our configuration) → our tensors of a format that only renames.

    Args:
        prefix: of the language model in our names.
    """

    def to_ours(tensors: dict, config) -> dict:
        ours = names.to_ours(tensors)
        settle_head(ours, config, prefix)
        return ours

    return to_ours


def refuse_other_values(config, wanted: dict[str, Any], target: str) -> None:
    """Raise ConversionError, naming the key, unless `config` has the values that `target` requires."""
    for name, value in wanted.items():
        if (found := getattr(config, name)) != value:
            raise ConversionError(f"{name} is {found!r}: {target} supports only {value!r}")
