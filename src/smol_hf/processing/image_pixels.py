"""The pixels of an image: PIL images and arrays of any number type → bytes in RGB → squares."""

import numpy as np
from PIL import Image

CHANNELS = (1, 3, 4)
LAYOUTS = ("channels_first", "channels_last")


def flatten_to_rgb(image):
    """RGB of bytes without alpha. What is transparent becomes white, as on a page.

    Raises:
        ValueError: see `to_eight_bits`.
    """
    if image.mode.startswith(("I", "F")):
        image = to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(page, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_eight_bits(image):
    """16-bit and 32-bit integer and float greys → 8 bits. Pillow's own conversion clips them instead of scaling.

    Raises:
        ValueError: for values whose range is not known (floats outside [0, 1], integers above 65535).
    """
    return Image.fromarray(bytes_of(np.asarray(image)))


def bytes_of(values):
    """An array of pixels of any number type → uint8, from the range that the type implies."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:  # as below: 257 is odd, so nothing is halfway
        return ((np.arange(65536) + 128) // 257).astype(np.uint8)[values]
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    values = values.astype(np.float64) if values.dtype.kind in "iu" else values.astype(np.float64) * 65535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            "pixels have no known white: floats must be in [0, 1], integers have at most 16 bits; "
            "save the image with 8 or 16 bits"
        )
    return (values / 257).round().astype(np.uint8)  # 65535 → 255


def as_array(image):
    """A tensor on any device, or anything that NumPy reads → an array."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = image.double() if image.is_floating_point() else image  # NumPy has no bfloat16
    return np.asarray(image)


def from_array(pixels, layout=None):
    """An array (height, width), or with 1, 3 or 4 channels first or last → a PIL image.

    Args:
        layout: "channels_first" or "channels_last", for arrays that could be read in both ways.

    Raises:
        ValueError: for another shape, for an ambiguous one, and for a number type without a known white.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"input_data_format {layout!r}: choose one of {', '.join(LAYOUTS)}")
    shape = pixels.shape
    if pixels.ndim == 3 and 0 not in shape:
        first, last = pixels.shape[0] in CHANNELS, pixels.shape[2] in CHANNELS
        if first and last and layout is None:
            raise ValueError(
                f"an array of shape {pixels.shape} has its channels first or last: say it with input_data_format"
            )
        if layout == LAYOUTS[0] or (layout is None and not last):
            pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        raise ValueError(
            f"an array of shape {shape} is no image: (height, width), or with 1, 3 or 4 channels last or first"
        )
    if pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array of {pixels.dtype} has no known white: give uint8, uint16, or floats in [0, 1]")
    return Image.fromarray(bytes_of(pixels).squeeze(2) if pixels.shape[2:] == (1,) else bytes_of(pixels))


def resize(image, height, width, resample=Image.Resampling.LANCZOS):
    """The image at this size; unchanged where it has it already."""
    return image if image.size == (width, height) else image.resize((width, height), resample)


def middle(image, width, height):
    """The rectangle of this size in the middle of the image."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def planes(image):
    """A PIL image in RGB → uint8 (3, height, width)."""
    return np.asarray(image).transpose(2, 0, 1)


def canvas(grid, tile_size):
    """(height, width) of a grid of tiles; of (0, 0) that of the one tile."""
    rows, columns = grid
    return max(rows, 1) * tile_size, max(columns, 1) * tile_size


def tiles_of(pixels, overview, overview_first=False):
    """Cut an image into its tiles: uint8 (rows · columns + 1, 3, side, side), row by row.

    Args:
        pixels: uint8 (3, rows · side, columns · side), or None for an image of one tile.
        overview: uint8 (3, side, side), the tile after the others, or before them with `overview_first`.
    """
    side = overview.shape[-1]
    rows, columns = (pixels.shape[1] // side, pixels.shape[2] // side) if pixels is not None else (0, 0)
    tiles = np.empty((rows * columns + 1, 3, side, side), dtype=np.uint8)
    tiles[0 if overview_first else -1] = overview
    if pixels is not None:
        squares = tiles[1:] if overview_first else tiles[:-1]
        grid = pixels.reshape(3, rows, side, columns, side)
        squares.reshape(rows, columns, 3, side, side)[...] = grid.transpose(1, 3, 0, 2, 4)
    return tiles
