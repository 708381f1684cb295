"""From an image of any size to square uint8 tiles, in the way of each model family.

    ImageTiler (SmolVLM)       1 2 3 / 4 5 6, then 7, a small copy of the image (the overview)
    OverviewFirst (nanoVLM)    1, the overview, then 2 3 4 / 5 6 7
    MiddleSquare (LLaVA-1.5), WholeSquare (SigLIP)   one tile: the middle, or the stretched image

Tiles are squares of `tile_size` pixels. Resizes equal those of transformers' image processors. The model normalises.
"""

import math
from dataclasses import dataclass

from PIL import Image

from .image_pixels import canvas, flatten_to_rgb, middle, resize, single_tile, tiles_of

LONGEST_SIDE = 4096  # pixels; no image is enlarged beyond it
BICUBIC = Image.Resampling.BICUBIC
WIDEST = 16  # longer images than 16:1 are cropped before they are enlarged: the rest would be cropped afterwards


@dataclass(frozen=True)
class ImageTiler:
    """The tiles of Idefics3 and SmolVLM (arXiv:2504.05299).

    Args:
        tile_size, longest_edge: pixels of a tile's side, and pixels to which the longer side is resized first.
        do_image_splitting: cut into a grid and an overview; otherwise stretch the image to one square tile.
        enlarge_images: also enlarge smaller images to `longest_edge`; otherwise they become fewer tiles.
    """

    tile_size: int
    longest_edge: int
    do_image_splitting: bool = True
    enlarge_images: bool = True
    overview_first = False

    def __post_init__(self):
        if self.tile_size < 1 or self.longest_edge < 1:
            raise ValueError(f"tile_size {self.tile_size} and longest_edge {self.longest_edge} must be positive")

    @property
    def max_tiles_per_side(self):
        """Rows (or columns) of the largest grid."""
        return math.ceil(min(self.longest_edge, LONGEST_SIDE) / self.tile_size) if self.do_image_splitting else 0

    def resized(self, height, width):
        """Return (height, width) after the first resize: the longer side is `longest_edge`, the shorter is even."""
        aspect = width / height
        longest_edge = self.longest_edge if self.enlarge_images else min(self.longest_edge, max(height, width))
        if width >= height:
            height, width = int(longest_edge / aspect), longest_edge
            height += height % 2
        else:
            height, width = longest_edge, int(longest_edge * aspect)
            width += width % 2
        height, width = max(height, 1), max(width, 1)
        if width >= height and width > LONGEST_SIDE:
            height, width = int(LONGEST_SIDE / (width / height)), LONGEST_SIDE
        elif height > width and height > LONGEST_SIDE:
            height, width = LONGEST_SIDE, int(LONGEST_SIDE * (width / height))
        return max(height, 1), max(width, 1)

    def grid(self, height, width):
        """(rows, columns) of tiles of an image of this size; (0, 0) for a single tile."""
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
        """Cut a PIL image into uint8 (tiles, 3, tile_size, tile_size): the grid row by row, then the overview."""
        image = flatten_to_rgb(image)
        grid = self.grid(image.height, image.width)
        image = resize(image, *self.resized(image.height, image.width))
        image = resize(image, *canvas(grid, self.tile_size))
        return tiles_of(image, resize(image, self.tile_size, self.tile_size))


@dataclass(frozen=True)
class MiddleSquare:
    """The tile of CLIP: the shorter side is resized to `tile_size`, and the middle square is kept."""

    tile_size: int
    max_tiles_per_side = 0

    def grid(self, height, width):
        return 0, 0

    def tiles(self, image):
        """Crop a PIL image to uint8 (1, 3, tile_size, tile_size)."""
        image, side = flatten_to_rgb(image), self.tile_size
        width, height = image.size
        if max(width, height) > WIDEST * min(width, height):
            image = middle(image, min(width, WIDEST * height), min(height, WIDEST * width))
            width, height = image.size
        # transformers rounds the longer side down
        size = (int(side * height / width), side) if width <= height else (side, int(side * width / height))
        return single_tile(middle(resize(image, *size, BICUBIC), side, side))


class WholeSquare(MiddleSquare):
    """The tile of SigLIP: the whole image, stretched in one step to uint8 (1, 3, tile_size, tile_size)."""

    def tiles(self, image):
        return single_tile(resize(flatten_to_rgb(image), self.tile_size, self.tile_size, BICUBIC))


@dataclass(frozen=True)
class OverviewFirst:
    """The tiles of nanoVLM.

    The longer side becomes `longest_edge`, or without `enlarge_images` the next multiple of `tile_size` up to it. The
    shorter side keeps the aspect ratio and is rounded up to a multiple too.
    """

    tile_size: int
    longest_edge: int
    enlarge_images: bool = False
    overview_first = True

    @property
    def max_tiles_per_side(self):
        return self.longest_edge // self.tile_size

    def grid(self, height, width):
        """(rows, columns) of tiles of an image of this size; (0, 0) for a single tile."""
        long, short = max(height, width), min(height, width)
        most = self.longest_edge
        if not self.enlarge_images:
            most = min(most, math.ceil(long / self.tile_size) * self.tile_size)
        fewest = max(math.ceil(short * (most / long) / self.tile_size), 1)
        rows, columns = (fewest, most // self.tile_size) if width >= height else (most // self.tile_size, fewest)
        return (0, 0) if rows == columns == 1 else (rows, columns)

    def tiles(self, image):
        """Cut a PIL image into uint8 (tiles, 3, tile_size, tile_size): the overview, then the grid row by row."""
        image, side = flatten_to_rgb(image), self.tile_size
        grid = self.grid(image.height, image.width)
        image = resize(image, *canvas(grid, side), BICUBIC)
        overview = resize(image, side, side, Image.Resampling.BILINEAR)
        return tiles_of(image, overview, self.overview_first)
