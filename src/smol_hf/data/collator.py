"""Samples → a batch of tensors. No other module stacks.

Padded: one row per sample, with an `attention_mask` that is zero on the padding. Packed: all samples in one row,
`position_ids` restart at 0 for each sample, and there is no `attention_mask`. By these positions the model keeps the
samples apart, and no position is spent on padding.
Attention over one long row costs the square of its length, except with kernels for rows of unequal length. So packed
rows of `row_length` can be stacked instead. Padding then continues the positions of a row's last sample,
without labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from smol_hf.data.stream.preparation import ReadySample
from smol_hf.modeling.label_loss import IGNORE_INDEX, labelled_positions
from smol_hf.modeling.mask import sample_bounds
from smol_hf.support.tokenizer_of import padding_token_id, tokenizer_of


class SmolCollator:
    """A collator of `ReadySample`s.

    Args:
        processor: a `SmolHFProcessor`, or the tokenizer of a text-only model.
        packing: one row without padding instead of a row per sample.
        row_length: the most tokens of a packed row; samples fill rows in their order. None: one row.
        locate: find the positions of labels, image tokens and samples. Our models would search for them on their
            device, and wait for it. Models of transformers do not take all of them.

    Attributes:
        image_features: a function from tiles to features of the image encoder, see `ImageFeatures`. If it is given,
            each batch holds `patch_features` (tiles, patches, vision_hidden) instead of `pixel_values`.

    A batch holds `input_ids`, `labels`, `attention_mask` or `position_ids`, and `pixel_values` (tiles, 3, side, side)
    uint8 if any sample has an image. With `locate` also `logits_to_keep`, `image_positions` and the keywords of
    `sample_bounds`. Without samples it is one padding token without a label: with several processes, one may reach the
    end of the data before the others.
    """

    def __init__(self, processor, *, packing: bool = False, row_length: int | None = None, locate: bool = True):
        self.packing, self.row_length, self.locate = packing, row_length, locate
        self.image_features: Callable[[list], torch.Tensor] | None = None
        self.padding = padding_token_id(tokenizer_of(processor))
        self.image_token = getattr(processor, "image_token_id", None)

    def __call__(self, samples: list[ReadySample]) -> dict[str, Any]:
        padding = self.padding
        input_ids = [sample.input_ids for sample in samples] or [torch.tensor([padding])]
        labels = [sample.labels for sample in samples] or [torch.tensor([IGNORE_INDEX])]
        if not self.packing:
            batch = pad(input_ids, labels, padding)
        elif self.row_length is None:
            batch = pack(input_ids, labels)
        else:
            batch = stack_rows(input_ids, labels, self.row_length, padding)
        tiles = [sample.tiles.numpy() for sample in samples if len(sample.tiles)]
        if self.image_features is not None:
            batch["patch_features"] = self.image_features([tile for of_sample in tiles for tile in of_sample])
        elif tiles:
            # NumPy asks for huge memory pages and PyTorch does not: the first touch of 40 MB in small pages costs more
            # than the copy.
            batch["pixel_values"] = torch.from_numpy(np.concatenate(tiles))
        return {**batch, **self.positions_in(batch)} if self.locate else batch

    def positions_in(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        found: dict[str, Any] = {"logits_to_keep": labelled_positions(batch["labels"])}
        if self.image_token is not None:
            found["image_positions"] = (batch["input_ids"] == self.image_token).flatten().nonzero().squeeze(-1)
        return found | (sample_bounds(batch["position_ids"]) if self.packing else {})


def pack(input_ids: list[torch.Tensor], labels: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(input_ids).unsqueeze(0),
        "labels": torch.cat(labels).unsqueeze(0),
        "position_ids": torch.cat([torch.arange(len(ids)) for ids in input_ids]).unsqueeze(0),
    }


def stack_rows(
    input_ids: list[torch.Tensor], labels: list[torch.Tensor], row_length: int, padding: int
) -> dict[str, torch.Tensor]:
    rows: list[list[int]] = []
    room = 0
    for number, ids in enumerate(input_ids):
        if not rows or len(ids) > room:
            rows.append([])
            room = row_length
        rows[-1].append(number)
        room -= len(ids)
    packed = [pack([input_ids[each] for each in row], [labels[each] for each in row]) for row in rows]
    longest = max(each["input_ids"].shape[1] for each in packed)
    filling = {"input_ids": padding, "labels": IGNORE_INDEX}
    stacked = {
        name: torch.cat([F.pad(each[name], (0, longest - each[name].shape[1]), value=value) for each in packed])
        for name, value in filling.items()
    }
    positions = [each["position_ids"][0] for each in packed]
    ends = [torch.arange(longest - len(each)) + each[-1] + 1 for each in positions]
    return {**stacked, "position_ids": torch.stack([torch.cat(pair) for pair in zip(positions, ends)])}


def pad(input_ids: list[torch.Tensor], labels: list[torch.Tensor], padding: int) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([len(ids) for ids in input_ids])
    padded = pad_sequence(input_ids, batch_first=True, padding_value=padding)
    return {
        "input_ids": padded,
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long(),
    }
