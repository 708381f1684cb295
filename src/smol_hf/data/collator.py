"""Samples → a batch of tensors: the only place that stacks.

Padded: one row per sample, `attention_mask` zero on the padding. Packed: all samples in one row, `position_ids`
restarting at 0 for each and no `attention_mask`, from which the attention mask becomes block-diagonal: samples do not
see each other, and no position is spent on padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from smol_hf.data.engine.preparation import ReadySample
from smol_hf.modeling.label_loss import IGNORE_INDEX


class SmolCollator:
    """Args:
        processor: a `SmolHFProcessor`.
        packing: one row without padding instead of a row per sample.

    A batch holds `input_ids`, `labels`, `attention_mask` or `position_ids`, and `pixel_values` (tiles, 3, side, side)
    uint8 when any sample has an image. Without samples it is a step of one padding token that has no label: with
    several processes one may have come to the end of the data before the others.
    """

    def __init__(self, processor, *, packing: bool = False):
        self.processor = processor
        self.packing = packing

    def __call__(self, samples: list[ReadySample]) -> dict[str, Any]:
        padding = self.processor.tokenizer.pad_token_id
        input_ids = [sample.input_ids for sample in samples] or [torch.tensor([padding])]
        labels = [sample.labels for sample in samples] or [torch.tensor([IGNORE_INDEX])]
        batch = pack(input_ids, labels) if self.packing else pad(input_ids, labels, padding)
        tiles = [sample.tiles for sample in samples if len(sample.tiles)]
        if tiles:
            batch["pixel_values"] = stack(tiles)
        return batch


def stack(tiles: list[torch.Tensor]) -> torch.Tensor:
    """The tiles of all samples, one after the other. NumPy asks for huge pages where PyTorch does not, and the first
    touch of 40 MB in small pages costs more than the copy."""
    first = tiles[0]
    stacked = np.empty((sum(map(len, tiles)), *first.shape[1:]), dtype=first.numpy().dtype)
    return torch.cat(tiles, out=torch.from_numpy(stacked))


def pack(input_ids: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(input_ids).unsqueeze(0),
        "labels": torch.cat(labels).unsqueeze(0),
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in input_ids]).unsqueeze(0),
    }


def pad(input_ids: list[torch.Tensor], labels: list[torch.Tensor], padding: int) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([len(ids) for ids in input_ids])
    padded = pad_sequence(input_ids, batch_first=True, padding_value=padding)
    return {
        "input_ids": padded,
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long(),
    }
