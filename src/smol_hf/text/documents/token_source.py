"""Tokens of documents as a source: each document in pieces of at most one context.

A piece begins with the last token of the piece before, which has no label there. So every token is a label exactly
once except the first of a document, which nothing predicts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smol_hf.data.sources.source import Source
from smol_hf.data.stream.preparation import ReadySample
from smol_hf.modeling.label_loss import IGNORE_INDEX

MOST_BLOCKS = 1_000_000  # beyond it, neighbouring pieces are shuffled together


class TokenSource(Source):
    """The pieces of one part of a token cache.

    Args:
        folder: of the part, see `token_cache`.
        key: of the cache.
        token_bytes: size of a token in its file.
        context_length: most tokens of a piece.
    """

    def __init__(self, name: str, folder: str | Path, key: str, token_bytes: int, context_length: int):
        self.name, self.folder, self.key = name, Path(folder), key
        self.token_bytes, self.context_length = token_bytes, context_length
        stride = context_length - 1
        self.pieces_before = np.concatenate([[0], np.cumsum(-(-(np.diff(self.edges) - 1) // stride))]).astype(np.int64)
        total = int(self.pieces_before[-1])
        self.together = max(-(-total // MOST_BLOCKS), 1)
        self.rows_anywhere = self.together == 1
        self.block_sizes = np.diff(np.append(np.arange(0, total, self.together), total))
        facts = f"{key} {self.folder.name} {context_length}"
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped files: each process maps them itself."""
        return {name: value for name, value in vars(self).items() if name not in ("edges", "tokens")}

    @cached_property
    def edges(self) -> np.ndarray:
        """The beginning of each document and the end of the last, (documents + 1,)."""
        return np.concatenate([[0], np.fromfile(self.folder / "ends.bin", dtype=np.int64)])

    @cached_property
    def tokens(self) -> np.ndarray:
        path, kind = self.folder / "tokens.bin", np.dtype(f"u{self.token_bytes}")
        return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)

    def read_block(self, block: int) -> list[tuple[str, np.ndarray]]:
        first = block * self.together
        return [self.piece(number) for number in range(first, first + int(self.block_sizes[block]))]

    def piece(self, number: int) -> tuple[str, np.ndarray]:
        document = int(np.searchsorted(self.pieces_before, number, side="right")) - 1
        within = (number - int(self.pieces_before[document])) * (self.context_length - 1)
        begin = int(self.edges[document]) + within
        end = min(begin + self.context_length, int(self.edges[document + 1]))
        return f"{self.name}: document {document + 1}, from token {within + 1}", self.tokens[begin:end]


@dataclass(frozen=True)
class Piece:
    sample_id: str
    tokens: np.ndarray
    num_tiles: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class TokenWork:
    """The work of a data stream on pieces of documents."""

    def prepare(self, source: int, where: str, record: np.ndarray) -> Piece:
        return Piece(where, record)

    def encode(self, source: int, piece: Piece) -> ReadySample:
        input_ids = torch.from_numpy(piece.tokens.astype(np.int64))
        labels = input_ids.clone()
        labels[0] = IGNORE_INDEX
        return ReadySample(piece.sample_id, source, input_ids, labels, torch.empty(0, dtype=torch.uint8))


class TokenCount(TokenWork):
    """The same without copies, to count rows."""

    def encode(self, source: int, piece: Piece) -> Piece:
        return piece
