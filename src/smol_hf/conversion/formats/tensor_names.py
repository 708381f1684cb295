"""One table of names for both directions: what a tensor is called elsewhere, and what it is called here."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch


class ConversionError(ValueError):
    """A checkpoint that cannot be converted, with the reason and what would work."""


class Renaming:
    """Args:
    rows: pairs (theirs, ours). `{i}` stands for a number. A row that ends with a dot renames whatever begins so,
        others a whole name. The first row that fits counts, so several of their names may become one of ours;
        back, the first row with that name of ours counts.
    ignored: regular expressions of names of theirs that hold nothing to be kept (masks, position numbers).
    """

    def __init__(self, rows: Iterable[tuple[str, str]], ignored: Iterable[str] = ()):
        rows = list(rows)
        self.there = [(_pattern(theirs), ours) for theirs, ours in rows]
        self.back = [(_pattern(ours), theirs) for theirs, ours in rows]
        self.ignored = [re.compile(pattern) for pattern in ignored]

    def to_ours(self, tensors: dict) -> dict:
        """Raises ConversionError for names that the table does not know, or two that become one."""
        kept = {name: tensor for name, tensor in tensors.items() if not any(p.search(name) for p in self.ignored)}
        return _rename(kept, self.there)

    def to_theirs(self, tensors: dict) -> dict:
        """Raises ConversionError as `to_ours` does."""
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
    """A head that is tied to the embeddings is not kept twice. One that is called tied but differs is kept, and
    called so no longer: transformers computes with it too."""
    text = config.get_text_config()
    head, embeddings = tensors.get(f"{prefix}lm_head.weight"), tensors.get(f"{prefix}model.embed_tokens.weight")
    if head is None or not text.tie_word_embeddings:
        return
    same = embeddings is None or head.is_meta or (head.shape == embeddings.shape and torch.equal(head, embeddings))
    if same:
        del tensors[f"{prefix}lm_head.weight"]
    else:
        text.tie_word_embeddings = config.tie_word_embeddings = False
