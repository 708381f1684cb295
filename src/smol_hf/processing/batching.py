"""Encoded samples → one batch: rows of equal length, and the tiles of all images."""

from dataclasses import dataclass

import numpy as np
import torch

from .chat_format import IGNORE_INDEX
from .processor_options import CallOptions

DEFAULT = CallOptions()


@dataclass
class EncodedSample:
    """One conversation: `input_ids` and `labels` (-100 = not trained) of equal length, and `tiles`.

    `tiles` are uint8 (tiles, 3, side, side), in the order of the image tokens.
    """

    input_ids: list[int]
    labels: list[int]
    tiles: np.ndarray


def batch_of(samples, tokenizer, image_token_id, options=DEFAULT, masks=False):
    """Pad `EncodedSample`s → {"input_ids", "attention_mask", …} as lists, and tiles as tensors.

    Args:
        options: `CallOptions`, which decide side and length of padding.
        masks: add "assistant_masks", 1 on labelled tokens.

    Raises:
        ValueError: for more tokens than `max_length`, unless truncation is set and cuts no image.
    """
    rows = [cut(sample, tokenizer, image_token_id, options) for sample in samples]
    lengths = [len(ids) for ids, _ in rows]
    length = padded_length(lengths, options)
    if any(each < length for each in lengths) and tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token: set tokenizer.pad_token")
    side = options.padding_side or tokenizer.padding_side

    def padded(values, value):
        blank = [value] * (length - len(values))
        return blank + values if side == "left" else values + blank

    batch = {"input_ids": [padded(ids, tokenizer.pad_token_id) for ids, _ in rows]}
    if options.return_attention_mask:
        batch["attention_mask"] = [padded([1] * each, 0) for each in lengths]
    if options.return_mm_token_type_ids:
        batch["mm_token_type_ids"] = [padded([int(each == image_token_id) for each in ids], 0) for ids, _ in rows]
    if options.return_length:
        batch["length"] = lengths
    if masks:
        batch["assistant_masks"] = [padded([int(label != IGNORE_INDEX) for label in labels], 0) for _, labels in rows]
    return {**batch, **stacked_tiles([sample.tiles for sample in samples], options)}


def cut(sample, tokenizer, image_token_id, options):
    """Return (input_ids, labels) of at most `max_length` tokens, cut if the options allow it."""
    ids, labels = sample.input_ids, sample.labels
    most = options.max_length or (tokenizer.model_max_length if options.cuts else len(ids))
    if len(ids) <= most:
        return ids, labels
    if not options.cuts:
        raise ValueError(f"a prompt has {len(ids)} tokens, but max_length is {most}: raise it, or set truncation")
    kept = slice(-most, None) if tokenizer.truncation_side == "left" else slice(0, most)
    if ids[kept].count(image_token_id) != ids.count(image_token_id):
        raise ValueError(f"truncation of {len(ids)} tokens to {most} would cut an image: give a larger max_length")
    return ids[kept], labels[kept]


def padded_length(lengths, options):
    """Return the length of all rows, or 0 without padding."""
    if not options.pads:
        return 0
    length = options.max_length if options.padding == "max_length" else max(lengths)
    multiple = options.pad_to_multiple_of or 1
    return -(-length // multiple) * multiple


def stacked_tiles(tiles, options=DEFAULT):
    """Pad the tiles of each sample, uint8 (tiles, 3, side, side), with empty tiles.

    Returns "pixel_values" (batch, most tiles, 3, side, side) and "pixel_attention_mask" (batch, most tiles, side,
    side), False on padding tiles; an empty dictionary if no sample has tiles. With `flat_tiles` it returns only
    "pixel_values" (tiles, 3, side, side), always: transformers' pipelines concatenate them.
    """
    most, side = max(map(len, tiles)), tiles[0].shape[-1]
    if options.flat_tiles:
        return {"pixel_values": as_asked(torch.from_numpy(np.concatenate(tiles)), options)}
    if not most:
        return {}
    pixels = np.zeros((len(tiles), most, 3, side, side), dtype=np.uint8)
    mask = np.zeros((len(tiles), most, side, side), dtype=bool)
    for row, each in enumerate(tiles):
        pixels[row, : len(each)] = each
        mask[row, : len(each)] = True
    pixels = as_asked(torch.from_numpy(pixels), options)
    return {"pixel_values": pixels, "pixel_attention_mask": torch.from_numpy(mask)}


def as_asked(pixels, options):
    """Return uint8, which the model normalises, or the floats that the options ask for.

    Floats are rescaled unless `do_rescale` is False, then normalised if `do_normalize` is True.
    """
    if not options.do_rescale and not options.do_normalize:
        return pixels
    pixels = pixels.float()
    if options.do_rescale is not False:
        pixels = pixels * options.rescale_factor
    if options.do_normalize:
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (options.image_mean, options.image_std))
        pixels = (pixels - mean) / std
    return pixels


def sizes_of(media):
    """(height, width) of each PIL image; a `ChosenVideo` stays."""
    return [each if hasattr(each, "times") else (each.height, each.width) for each in media]
