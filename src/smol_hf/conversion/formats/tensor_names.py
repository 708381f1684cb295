"""Names of tensors in other formats and in ours: one table serves both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from smol_hf.support.formatting import counted


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why, and what would work."""


def refuse_other_layouts(tensors: dict[str, torch.Tensor]) -> None:
    """Raise ConversionError for the first tensor that is sparse, or on the meta device and without values."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "on the meta device" if tensor.is_meta else "sparse or quantised"
            raise ConversionError(f"{name} is {kind}: save the weights as plain tensors with their values")


class Renaming:
    """A table of tensor names.

    Args:
        rows: pairs (theirs, ours); `{i}`, once in a name, matches a number. A name that ends with a dot is a prefix,
            another one is complete. The first matching row applies: several of their names may become one of ours.
        ignored: regular expressions of their tensors that are not kept (masks, position numbers).
    """

    def __init__(self, rows: Iterable[tuple[str, str]], ignored: Iterable[str]):
        self.rows = list(rows)
        self.ignored = re.compile("|".join(ignored))

    def to_ours(self, tensors: dict) -> dict:
        """Rename their tensors. Raise ConversionError if a name is unknown, or two names become one."""
        kept = {name: tensor for name, tensor in tensors.items() if not self.ignored.search(name)}
        return _rename(kept, self.rows)

    def to_theirs(self, tensors: dict) -> dict:
        """Rename our tensors. Raise ConversionError as `to_ours` does."""
        return _rename(tensors, [(ours, theirs) for theirs, ours in self.rows])


def _rename(tensors: dict, rows: list[tuple[str, str]]) -> dict:
    patterns = []
    for old, new in rows:
        end = "" if old.endswith(".") else "$"
        pattern = re.escape(old).replace(r"\{i\}", r"(\d+)") + end
        patterns.append((re.compile(f"^{pattern}"), new.replace("{i}", r"\1")))
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        new = next((pattern.sub(new, name) for pattern, new in patterns if pattern.match(name)), None)
        if new is None:
            unknown.append(name)
        elif new in renamed:
            raise ConversionError(f"two tensors would both be {new}; the second is {name}")
        else:
            renamed[new] = tensor
    if unknown:
        number = counted(len(unknown), "tensor", "belongs/belong")
        raise ConversionError(f"{number} to no known part, first {unknown[0]}")
    return renamed


def without_tied_head(tensors: dict, config) -> dict:
    """Remove the head from our tensors if it is tied to the embeddings. A file may have either of them, or both.

    A head that is declared tied but differs is kept, and declared untied: transformers computes with it too.
    """
    text = config.get_text_config()
    prefix = "" if text is config else "language_model."
    head, embeddings = f"{prefix}lm_head.weight", f"{prefix}model.embed_tokens.weight"
    if head not in tensors or not text.tie_word_embeddings:
        return tensors
    tensors = {embeddings: tensors[head], **tensors}
    first, second = tensors[head], tensors[embeddings]
    if first.is_meta or (first.shape == second.shape and torch.equal(first, second)):
        del tensors[head]
    else:
        text.tie_word_embeddings = config.tie_word_embeddings = False
    return tensors


def refuse_other_values(config, wanted: dict[str, Any], target: str) -> None:
    """Raise ConversionError, naming the key, unless `config` has the values that `target` requires."""
    for name, value in wanted.items():
        if (found := getattr(config, name)) != value:
            raise ConversionError(f"{name} is {found!r}: {target} supports only {value!r}")
