"""Pictures to tiles in one resize instead of two or three: the path `fast` of a recipe.

The path `exact` repeats transformers' arithmetic: Pillow's LANCZOS to the longest edge, again to the grid, again to
the overview. Here a JPEG is decoded at the smallest scale that its discrete cosine transform offers above the size
that is needed, brought to its grid in one step (bicubic with antialiasing, on bytes), and the overview is made of the
smaller of both. Grids, tokens and the order of tiles are the same; how far the pixels are from those of `exact` is
measured by `benchmarks/data_pipeline.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from smol_hf.data.conversation import ImagePart
from smol_hf.data.media.images import decode, open_image, upright_size
from smol_hf.processing.image_pixels import canvas
from smol_hf.processing.image_tiling import MiddleSquare

IMAGE_RESIZING = ("exact", "fast")


def fast_tiles(part: ImagePart, where: str, tiler) -> np.ndarray:
    """An undecoded image → uint8 (tiles, 3, side, side), as many as the exact path makes.

    Raises:
        SampleError: as `load_image`.
    """
    image = open_image(part, where)
    grid = tiler.grid(*upright_size(image, part, where))
    size = canvas(grid, tiler.tile_size)
    image = decode(image, part, where, at_least=size)
    if isinstance(tiler, MiddleSquare):
        return tiler.tiles(image)
    seen = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = resize(seen, *size)
    smaller = min(seen, pixels, key=torch.Tensor.numel)  # both show the whole picture
    overview = resize(smaller, tiler.tile_size, tiler.tile_size)
    return tiler.in_order(grid, pixels.numpy(), overview.numpy())


def resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 (3, height, width) → the same at another size."""
    if pixels.shape[1:] == (height, width):
        return pixels
    return interpolate(pixels.unsqueeze(0), (height, width), mode="bicubic", antialias=True)[0]
