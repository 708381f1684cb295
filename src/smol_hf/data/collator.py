"""Samples → a batch of tensors: the only place that stacks.

Padded: one row per sample, `attention_mask` zero on the padding. Packed: all samples in one row, `position_ids`
restarting at 0 for each and no `attention_mask`, from which the attention mask becomes block-diagonal: samples do not
see each other, and no position is spent on padding.
"""

from __future__ import annotations

from typing import Any

import torch

from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.dataset import template_messages
from smol_hf.data.images import load_image
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.modeling.processing_smol_hf import EncodedSample


class SmolCollator:
    """Args:
        processor: a `SmolHFProcessor`.
        packing: one row without padding instead of a row per sample.
        on_bad_sample: "stop" raises the `SampleError` of an image that turns out damaged; "skip" leaves the sample
            out of its batch and names it under `skipped`.

    A batch holds `input_ids`, `labels`, `attention_mask` or `position_ids`, `pixel_values` (tiles, 3, side, side)
    uint8 when any sample has an image, and for the trainer's books `sample_ids` and `skipped`.
    """

    def __init__(self, processor, *, packing: bool = False, on_bad_sample: str = "stop"):
        self.processor = processor
        self.packing = packing
        self.on_bad_sample = on_bad_sample

    def encode(self, row: dict[str, Any]) -> EncodedSample:
        """A row of `build_dataset` → token ids, labels and tiles. Raises SampleError for a damaged image."""
        conversation = Conversation.from_row(row)
        images = [load_image(image, conversation.sample_id) for image in conversation.images]
        sample = self.processor.encode(template_messages(conversation), images)
        # The first token has nothing before it to be predicted from; in a packed row, only another sample.
        sample.labels[0] = IGNORE_INDEX
        return sample

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        samples, sample_ids, skipped = [], [], []
        for row in rows:
            try:
                samples.append(self.encode(row))
                sample_ids.append(row["sample_id"])
            except SampleError as error:
                if self.on_bad_sample == "stop":
                    raise
                skipped.append(error)
        if not samples:  # an empty step: one padding token without a label
            blank = self.processor.tokenizer.pad_token_id
            samples = [EncodedSample([blank], [IGNORE_INDEX], self.processor.tiles([]))]
        batch = self.pack(samples) if self.packing else self.pad(samples)
        tiles = [torch.from_numpy(sample.tiles) for sample in samples if len(sample.tiles)]
        if tiles:
            batch["pixel_values"] = torch.cat(tiles)
        return {**batch, "sample_ids": sample_ids, "skipped": skipped}

    def pack(self, samples: list[EncodedSample]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.tensor([[token for sample in samples for token in sample.input_ids]]),
            "labels": torch.tensor([[label for sample in samples for label in sample.labels]]),
            "position_ids": torch.cat([torch.arange(len(sample.input_ids)) for sample in samples]).unsqueeze(0),
        }

    def pad(self, samples: list[EncodedSample]) -> dict[str, torch.Tensor]:
        length = max(len(sample.input_ids) for sample in samples)
        shape = (len(samples), length)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            count = len(sample.input_ids)
            input_ids[row, :count] = torch.tensor(sample.input_ids)
            labels[row, :count] = torch.tensor(sample.labels)
            attention_mask[row, :count] = 1
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
