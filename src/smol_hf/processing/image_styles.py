"""Styles in which model families write an image: its tiles, and the tokens around them.

| `image_style` | tiles | tokens |
|---|---|---|
| `smolvlm` (Idefics3, SmolVLM) | a grid, then an overview | special tokens before each tile |
| `nanovlm` (github.com/huggingface/nanoVLM) | an overview, then a grid | special tokens before each tile |
| `crop` (CLIP, LLaVA-1.5) | the middle square of the image | image tokens only |
| `plain` | the whole image, stretched to a square | image tokens only |

To add a style, write a class with these methods and name it in `STYLES`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from .chat_format import FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, IMAGE_TOKEN, image_tokens, tile_token
from .image_tiling import ImageTiler, MiddleSquare, OverviewFirst, WholeSquare

NANOVLM_GLOBAL_TOKEN = "<|global_image|>"


@dataclass(frozen=True)
class ImageStyle:
    """Base class of all styles. The fields are settings of `SmolHFProcessor`."""

    tile_size: int
    longest_edge: int
    do_image_splitting: bool
    enlarge_images: bool
    image_token: str

    def __post_init__(self):
        """Raise ValueError for settings that exclude each other."""

    def check(self, tokenizer):
        """Raise ValueError if a tokenizer lacks one of `control_tokens`."""
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in self.control_tokens if token not in vocabulary]:
            raise ValueError(f"the tokenizer lacks {len(missing)} tokens for images, first {missing[0]}: add them")

    @cached_property
    def tiler(self):
        """The object that cuts an image into tiles, see `image_tiling`."""
        raise NotImplementedError

    @cached_property
    def control_tokens(self):
        """All tokens that write images. A tokenizer must have them."""
        raise NotImplementedError

    def write(self, rows, columns, image_seq_len):
        """Write the tokens of an image cut into this grid, (0, 0) for a single tile, as a string."""
        raise NotImplementedError

    def write_before(self, index, images):
        """Write the text before the image with this index, of `images` images."""
        return ""


class PlainStyle(ImageStyle):
    """One tile, the whole image."""

    def __post_init__(self):
        if self.do_image_splitting:
            raise ValueError("image_style crop and plain have no tokens for tiles: set do_image_splitting to false")

    @cached_property
    def tiler(self):
        return WholeSquare(self.tile_size)

    @cached_property
    def control_tokens(self):
        return [self.image_token]

    def write(self, rows, columns, image_seq_len):
        return self.image_token * image_seq_len


class CropStyle(PlainStyle):
    """One tile, the middle square of the image."""

    @cached_property
    def tiler(self):
        return MiddleSquare(self.tile_size)


class SmolVLMStyle(ImageStyle):
    """A grid of tiles, then an overview."""

    def __post_init__(self):
        if self.image_token != IMAGE_TOKEN:
            raise ValueError(
                f"image_style smolvlm writes {IMAGE_TOKEN}, not the image_token {self.image_token!r}: choose another"
            )

    @cached_property
    def tiler(self):
        return ImageTiler(self.tile_size, self.longest_edge, self.do_image_splitting, self.enlarge_images)

    @cached_property
    def control_tokens(self):
        return image_tokens(self.tiler.max_tiles_per_side)

    def write(self, rows, columns, image_seq_len):
        features = IMAGE_TOKEN * image_seq_len
        block = ""
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                block += FAKE_IMAGE_TOKEN + tile_token(row, column) + features
            block += "\n"
        if rows:
            block += "\n"
        return block + FAKE_IMAGE_TOKEN + GLOBAL_IMAGE_TOKEN + features + FAKE_IMAGE_TOKEN


class NanoVLMStyle(ImageStyle):
    """An overview, then a grid of tiles. Several images are numbered."""

    @cached_property
    def tiler(self):
        longest_edge = self.longest_edge if self.do_image_splitting else self.tile_size
        return OverviewFirst(self.tile_size, longest_edge, self.enlarge_images)

    @cached_property
    def control_tokens(self):
        sides = range(1, self.tiler.max_tiles_per_side + 1)
        grid = [tile_token(row, column) for row in sides for column in sides]
        return [self.image_token, NANOVLM_GLOBAL_TOKEN, *grid]

    def write(self, rows, columns, image_seq_len):
        features = self.image_token * image_seq_len
        grid = [tile_token(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
        return NANOVLM_GLOBAL_TOKEN + features + "".join(token + features for token in grid)

    def write_before(self, index, images):
        return f"<image: {index}>" if images > 1 else ""


STYLES = {"smolvlm": SmolVLMStyle, "nanovlm": NanoVLMStyle, "crop": CropStyle, "plain": PlainStyle}


@lru_cache(maxsize=64)
def style_of(name, *settings):
    """Return the style of these settings, see `ImageStyle`. Raises ValueError for those that exclude each other."""
    if name not in STYLES:
        raise ValueError(f"image_style {name!r}: choose one of {', '.join(STYLES)}")
    return STYLES[name](*settings)
