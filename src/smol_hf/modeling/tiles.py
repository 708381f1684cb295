"""Tiles on their way to the image encoder: padding tiles go, pixels become numbers around 0, and copies are found."""

import math

import torch


def real_tiles(pixel_attention_mask):
    """(batch, tiles, height, width) → (batch, tiles), False for padding tiles."""
    return pixel_attention_mask[:, :, 0, 0].bool()


def flat_tiles(pixel_values, pixel_attention_mask):
    """(batch, tiles, 3, height, width) → the real tiles, (tiles, 3, height, width). Flat tiles stay as they are."""
    if pixel_values.dim() != 5:
        return pixel_values
    pixel_values = pixel_values.flatten(0, 1)
    if pixel_attention_mask is None:
        return pixel_values
    real = real_tiles(pixel_attention_mask).flatten()
    if torch.compiler.is_compiling():
        # A compiler needs static shapes: sort the padding tiles to the end. `masked_scatter` reads as many features as
        # there are image tokens, so it never reads those of padding.
        return pixel_values[torch.argsort((~real).int(), stable=True)]
    return pixel_values[real]


def normalize_tiles(pixel_values, config, dtype):
    """Normalise tiles (tiles, 3, height, width): uint8 x → (x / 255 - mean) / std in `dtype`; floats stay as they are.

    The model does this on its device: a data worker sends a quarter of the bytes that float32 pixels would take.

    Raises:
        ValueError: for integers other than uint8, and for floats outside the range of normalised images.
    """
    if pixel_values.dtype != torch.uint8:
        check_normalized(pixel_values, config)
        return pixel_values.to(dtype)

    def by_channel(numbers):  # filled on the device: a copy from the host would wait for it
        channels = [torch.full((1, 1, 1), number, dtype=dtype, device=pixel_values.device) for number in numbers]
        return torch.stack(channels, dim=1)  # (1, 3, 1, 1)

    mean, std = by_channel(config.image_mean), by_channel(config.image_std)
    return (pixel_values.to(dtype) / 255 - mean) / std


def check_normalized(pixel_values, config):
    """Raise ValueError for uint8 tiles that were cast to another type: the answer would be wrong without an error.

    Normalised pixels are between (0 - mean) / std and (1 - mean) / std. The check allows four times this range on
    either side. Values that are not finite pass, since the loss shows them as NaN.
    """
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values have the type {pixel_values.dtype}: give uint8, or normalised floats")
    if torch.compiler.is_compiling() or pixel_values.device.type == "meta" or not pixel_values.numel():
        return
    lowest = min(-mean / std for mean, std in zip(config.image_mean, config.image_std))
    highest = max((1 - mean) / std for mean, std in zip(config.image_mean, config.image_std))
    margin = 4 * (highest - lowest)
    least, most = torch.stack(torch.aminmax(pixel_values.detach())).tolist()  # waits for the device only once
    if max(map(abs, (least, most))) < math.inf and (least < lowest - margin or most > highest + margin):
        raise ValueError(
            f"pixel_values are floats from {least:.4g} to {most:.4g}, but normalised images are between {lowest:.4g} "
            f"and {highest:.4g}: give the processor's uint8 tiles, or (x / 255 - image_mean) / image_std"
        )


def distinct_tiles(pixel_values):
    """Return the distinct tiles, and the place of each tile among them; None if all differ.

    Beams, and several questions about one image, repeat its tiles.
    """
    groups = {}  # sum of the pixels → places among the distinct tiles
    distinct, places = [], []
    for number, total in enumerate(pixel_values.flatten(1).sum(dim=1).tolist()):
        group = groups.setdefault(total, [])
        place = next((each for each in group if torch.equal(pixel_values[distinct[each]], pixel_values[number])), None)
        if place is None:
            place = len(distinct)
            group.append(place)
            distinct.append(number)
        places.append(place)
    if len(distinct) == len(places):
        return pixel_values, None
    return pixel_values[distinct], places
