"""From a picture of any size to square tiles of bytes, in the way of Idefics3 and SmolVLM (arXiv:2504.05299).

The encoder sees squares of `tile_size`. A large picture is cut into a grid of such squares, read row by row, and a
small copy of the whole comes last, so that detail and overview are both there. The arithmetic, the LANCZOS filter and
the order of the two resizes are those of transformers' Idefics3ImageProcessor; only the last steps (to [0, 1], then
normalised) are left to the model, so that a tile travels as bytes.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

LONGEST_SIDE = 4096  # pixels; nothing is ever enlarged beyond it


@dataclass(frozen=True)
class ImageTiler:
    """`longest_edge`: pixels to which a picture's longer side is brought first. `tile_size`: side of a tile.
    `do_image_splitting`: cut into a grid plus overview; otherwise one square tile, whatever the aspect.
    `enlarge_images`: also where the picture is smaller, as SmolVLM does; otherwise it becomes only as many tiles as
    its own pixels fill."""

    tile_size: int
    longest_edge: int
    do_image_splitting: bool = True
    enlarge_images: bool = True

    def __post_init__(self):
        if self.tile_size < 1 or self.longest_edge < 1:
            raise ValueError(f"tile_size {self.tile_size} and longest_edge {self.longest_edge} must be positive")

    @property
    def max_tiles_per_side(self):
        """Rows (or columns) of the largest grid."""
        return math.ceil(min(self.longest_edge, LONGEST_SIDE) / self.tile_size) if self.do_image_splitting else 0

    def resized(self, height, width):
        """Size after the first resize: the longer side is `longest_edge`, the shorter keeps the aspect and is even."""
        aspect = width / height
        longest_edge = self.longest_edge if self.enlarge_images else min(self.longest_edge, max(height, width))
        if width >= height:
            width = longest_edge
            height = int(width / aspect)
            height += height % 2
        else:
            height = longest_edge
            width = int(height * aspect)
            width += width % 2
        height, width = max(height, 1), max(width, 1)
        if width >= height and width > LONGEST_SIDE:
            height, width = int(LONGEST_SIDE / (width / height)), LONGEST_SIDE
        elif height > width and height > LONGEST_SIDE:
            height, width = LONGEST_SIDE, int(LONGEST_SIDE * (width / height))
        return max(height, 1), max(width, 1)

    def grid(self, height, width):
        """(rows, columns) of tiles that a picture of this size becomes; (0, 0) when it is a single tile."""
        if not self.do_image_splitting:
            return 0, 0
        height, width = self.resized(height, width)
        aspect = width / height
        if width >= height:
            columns = math.ceil(width / self.tile_size)
            rows = math.ceil(int(columns * self.tile_size / aspect) / self.tile_size)
        else:
            rows = math.ceil(height / self.tile_size)
            columns = math.ceil(int(rows * self.tile_size * aspect) / self.tile_size)
        rows, columns = max(rows, 1), max(columns, 1)
        return (0, 0) if rows == columns == 1 else (rows, columns)

    def tiles(self, image):
        """A PIL image → uint8 array (tiles, 3, tile_size, tile_size): the grid row by row, then the overview."""
        image = flatten_to_rgb(image)
        grid = self.grid(image.height, image.width)
        image = resize(image, *self.resized(image.height, image.width))
        image = resize(image, *canvas(grid, self.tile_size))
        overview = resize(image, self.tile_size, self.tile_size)
        return self.in_order(grid, planes(image), planes(overview))

    def in_order(self, grid, pixels, overview):
        """The picture at the size of its grid and its overview, (3, height, width) each → tiles as the model reads
        them."""
        return tiles_of(pixels if grid != (0, 0) else None, overview)


def canvas(grid, tile_size):
    """(height, width) of a grid of tiles; of (0, 0) that of the one tile."""
    rows, columns = grid
    return max(rows, 1) * tile_size, max(columns, 1) * tile_size


def planes(image):
    """A PIL image in RGB → uint8 (3, height, width)."""
    return np.asarray(image).transpose(2, 0, 1)


def tiles_of(pixels, overview, overview_first=False):
    """uint8 (3, rows · side, columns · side), or None, and (3, side, side) → (rows · columns + 1, 3, side, side):
    the squares of the picture row by row, after or before the overview."""
    side = overview.shape[-1]
    rows, columns = (pixels.shape[1] // side, pixels.shape[2] // side) if pixels is not None else (0, 0)
    tiles = np.empty((rows * columns + 1, 3, side, side), dtype=np.uint8)
    tiles[0 if overview_first else -1] = overview
    if pixels is not None:
        squares = tiles[1:] if overview_first else tiles[:-1]
        grid = pixels.reshape(3, rows, side, columns, side)
        squares.reshape(rows, columns, 3, side, side)[...] = grid.transpose(1, 3, 0, 2, 4)
    return tiles


def resize(image, height, width, resample=Image.Resampling.LANCZOS):
    return image if image.size == (width, height) else image.resize((width, height), resample)


def flatten_to_rgb(image):
    """RGB of bytes without alpha: what is transparent shows a white page, as a reader would see it.

    Raises:
        ValueError: see `to_eight_bits`.
    """
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
    if not image.mode.startswith(("I", "F")):
        return image
    return Image.fromarray(bytes_of(np.asarray(image)))


def bytes_of(values):
    """An array of pixels of any number type → uint8, from the range that the type implies."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return ((np.arange(65536) + 128) // 257).astype(np.uint8)[
            values
        ]  # as below: 257 is odd, so nothing is halfway
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    values = values.astype(np.float64) if values.dtype.kind in "iu" else values.astype(np.float64) * 65535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            "pixels have no known white: floats must be in [0, 1], integers have at most 16 bits; "
            "save the picture with 8 or 16 bits"
        )
    return (values / 257).round().astype(np.uint8)  # 65535 → 255
