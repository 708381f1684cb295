"""How the families of models write a picture: which tiles it is cut into, in which order, between which tokens.

- `smolvlm`: a grid of tiles, then an overview, each announced by special tokens (Idefics3, SmolVLM);
- `nanovlm`: the overview first, then the grid (github.com/huggingface/nanoVLM, data/custom_transforms.py);
- `crop`: one tile, the middle square of the picture, image tokens alone (CLIP, LLaVA-1.5);
- `plain`: one tile, the whole picture whatever its aspect, image tokens alone.
"""

import math
from dataclasses import dataclass

from PIL import Image

from .chat_format import IMAGE_TOKEN, image_block, image_tokens, tile_token
from .image_tiling import ImageTiler, canvas, flatten_to_rgb, planes, resize, tiles_of

STYLES = ("smolvlm", "nanovlm", "crop", "plain")
NANOVLM_GLOBAL_TOKEN = "<|global_image|>"
BICUBIC = Image.Resampling.BICUBIC
WIDEST = 16  # sides beyond 16:1 are cropped before they are enlarged: nothing of the rest would be seen anyway


def build_tiler(style, tile_size, longest_edge, do_image_splitting, enlarge_images):
    if style == "crop":
        return MiddleSquare(tile_size)
    if style == "nanovlm":
        return OverviewFirst(tile_size, longest_edge if do_image_splitting else tile_size, enlarge_images)
    return ImageTiler(tile_size, longest_edge, do_image_splitting and style == "smolvlm", enlarge_images)


def control_tokens(style, image_token, max_tiles_per_side):
    """The tokens with which pictures are written."""
    if style == "smolvlm":
        return image_tokens(max_tiles_per_side)
    if style == "nanovlm":
        return nanovlm_tokens(image_token, max_tiles_per_side)
    return [image_token]


def nanovlm_tokens(image_token, max_tiles_per_side):
    sides = range(1, max_tiles_per_side + 1)
    return [image_token, NANOVLM_GLOBAL_TOKEN, *(tile_token(row, column) for row in sides for column in sides)]


def write_picture(style, rows, columns, image_seq_len, image_token):
    """The tokens of a picture cut into this grid, as a string."""
    if style == "smolvlm":
        return image_block(rows, columns, image_seq_len)
    features = image_token * image_seq_len
    if style != "nanovlm":
        return features
    grid = [tile_token(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
    return NANOVLM_GLOBAL_TOKEN + features + "".join(token + features for token in grid)


def before_picture(style, index, pictures):
    """What is written before a picture of several: nanoVLM numbers them."""
    return f"<image: {index}>" if style == "nanovlm" and pictures > 1 else ""


def check_style(style, image_token, do_image_splitting):
    """Raises ValueError for options that do not go together."""
    if style not in STYLES:
        raise ValueError(f"image_style {style!r}: choose one of {', '.join(STYLES)}")
    if style == "smolvlm" and image_token != IMAGE_TOKEN:
        raise ValueError(f"image_token {image_token!r} needs another image_style: smolvlm writes {IMAGE_TOKEN}")
    if do_image_splitting and style in ("crop", "plain"):
        raise ValueError(f"do_image_splitting needs tokens for tiles, which image_style {style!r} does not have")


@dataclass(frozen=True)
class MiddleSquare:
    """CLIP's way: the shorter side is brought to `tile_size`, and the middle square is seen."""

    tile_size: int
    max_tiles_per_side = 0

    def grid(self, height, width):
        return 0, 0

    def tiles(self, image):
        """A PIL image → uint8 array (1, 3, tile_size, tile_size)."""
        image, side = flatten_to_rgb(image), self.tile_size
        width, height = image.size
        if max(width, height) > WIDEST * min(width, height):
            image = middle(image, min(width, WIDEST * height), min(height, WIDEST * width))
            width, height = image.size
        # transformers rounds the longer side down
        size = (int(side * height / width), side) if width <= height else (side, int(side * width / height))
        return tiles_of(None, planes(middle(resize(image, *size, BICUBIC), side, side)))


def middle(image, width, height):
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class OverviewFirst:
    """nanoVLM's way: the longer side becomes `longest_edge`, or without `enlarge_images` the next multiple of
    `tile_size` up to it; the shorter keeps the aspect and is rounded up to a multiple too."""

    tile_size: int
    longest_edge: int
    enlarge_images: bool = False

    @property
    def max_tiles_per_side(self):
        return self.longest_edge // self.tile_size

    def grid(self, height, width):
        """(rows, columns) of tiles that a picture of this size becomes; (0, 0) when it is a single tile."""
        long, short = max(height, width), min(height, width)
        most = self.longest_edge
        if not self.enlarge_images:
            most = min(most, math.ceil(long / self.tile_size) * self.tile_size)
        fewest = max(math.ceil(short * (most / long) / self.tile_size), 1)
        rows, columns = (fewest, most // self.tile_size) if width >= height else (most // self.tile_size, fewest)
        return (0, 0) if rows == columns == 1 else (rows, columns)

    def tiles(self, image):
        """A PIL image → uint8 array (tiles, 3, tile_size, tile_size): the overview, then the grid row by row."""
        image, side = flatten_to_rgb(image), self.tile_size
        grid = self.grid(image.height, image.width)
        image = resize(image, *canvas(grid, side), BICUBIC)
        overview = resize(image, side, side, Image.Resampling.BILINEAR)
        return self.in_order(grid, planes(image), planes(overview))

    def in_order(self, grid, pixels, overview):
        """As `ImageTiler.in_order`, the overview first."""
        return tiles_of(pixels if grid != (0, 0) else None, overview, overview_first=True)
