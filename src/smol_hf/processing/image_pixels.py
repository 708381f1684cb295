"""Pixels of an image: PIL images and arrays of any number type → uint8 RGB → square tiles."""

from numbers import Integral

import numpy as np
from PIL import Image

CHANNELS = (1, 3, 4)
LAYOUTS = ("channels_first", "channels_last")


def flatten_to_rgb(image):
    """Convert to 8-bit RGB without alpha. Transparent parts become white.

    Grey values of 16-bit and 32-bit integers and floats are scaled, which Pillow's own conversion would clip.

    Raises:
        ValueError: for values of unknown range (floats outside [0, 1], integers above 65535).
    """
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(bytes_of(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def bytes_of(values):
    """Scale an array of pixels from the range that its number type implies to uint8."""
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
    """Convert a tensor on any device, or anything that NumPy reads, to an array."""
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = image.double() if image.is_floating_point() else image  # NumPy has no bfloat16
    return np.asarray(image)


def from_array(pixels, layout=None):
    """Convert an array, (height, width) or with 1, 3 or 4 channels first or last, to a PIL image.

    Args:
        layout: "channels_first" or "channels_last", for arrays that fit both.

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
                f"an array of shape {pixels.shape} may have its channels first or last: set input_data_format"
            )
        if layout == LAYOUTS[0] or (layout is None and not last):
            pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        raise ValueError(
            f"an array of shape {shape} is not an image: give (height, width), or 1, 3 or 4 channels last or first"
        )
    if pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array of {pixels.dtype} has no known white: give uint8, uint16, or floats in [0, 1]")
    return Image.fromarray(bytes_of(pixels).squeeze(2) if pixels.shape[2:] == (1,) else bytes_of(pixels))


def resize(image, height, width, resample=Image.Resampling.LANCZOS):
    """Resize an image, unless it has this size already."""
    return image if image.size == (width, height) else image.resize((width, height), resample)


def middle(image, width, height):
    """Crop a rectangle of this size from the middle of an image."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def canvas(grid, tile_size):
    """Return (height, width) in pixels of a grid (rows, columns) of tiles; the grid (0, 0) is a single tile."""
    rows, columns = grid
    return max(rows, 1) * tile_size, max(columns, 1) * tile_size


def tiles_of(image, overview, overview_first=False):
    """Cut an image into its tiles: uint8 (rows · columns + 1, 3, side, side), row by row.

    Args:
        image: in RGB, rows · side high and columns · side wide; an image of one tile is only its overview.
        overview: side · side pixels, the tile after the others, or before them with `overview_first`.
    """
    pixels, overview = np.asarray(image), np.asarray(overview)  # (height, width, 3)
    side = len(overview)
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    number = rows * columns if rows * columns > 1 else 0
    tiles = np.empty((number + 1, 3, side, side), dtype=np.uint8)
    tiles[0 if overview_first else -1] = overview.transpose(2, 0, 1)
    if number:
        squares = tiles[1:] if overview_first else tiles[:-1]
        grid = pixels.reshape(rows, side, columns, side, 3)
        squares.reshape(rows, columns, 3, side, side)[...] = grid.transpose(0, 2, 4, 1, 3)
    return tiles


def longest_edge_of(name, value):
    """Read pixels from an int or a mapping with only `longest_edge`. Raises ValueError for anything else."""
    try:
        given = {"longest_edge": value} if isinstance(value, (int, float)) else dict(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} {value!r} is not supported: give {{'longest_edge': pixels}}") from None
    sides = {key: side for key, side in given.items() if side is not None}
    if set(sides) != {"longest_edge"}:
        raise ValueError(f"{name} {sides} is not supported: give only longest_edge")
    side = sides["longest_edge"]
    if isinstance(side, bool) or not isinstance(side, Integral) or side < 1:
        raise ValueError(f"{name}: longest_edge {side!r} must be a positive whole number of pixels")
    return int(side)


def single_tile(square):
    """Return the tile of a square image in RGB: uint8 (1, 3, side, side)."""
    return tiles_of(square, square)
