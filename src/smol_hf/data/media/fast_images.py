"""Images to tiles in one resize instead of two or three: `image_resizing: fast` of a recipe.

`exact` repeats transformers' arithmetic: Pillow's LANCZOS to the longest edge, then to the grid, then to the overview.
`fast` decodes a JPEG at the smallest sufficient scale of its discrete cosine transform. It resizes once to the grid
(bicubic with antialiasing, on bytes), and makes the overview from the smaller of both. Grids, tokens and the order of
tiles are the same. `benchmarks/data_pipeline.py` measures the difference of the pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

from smol_hf.data.conversation import ImagePart
from smol_hf.data.media.images import image_size, load_image
from smol_hf.processing.image_pixels import canvas, tiles_of
from smol_hf.processing.image_tiling import MiddleSquare

IMAGE_RESIZING = ("exact", "fast")


def fast_tiles(part: ImagePart, where: str, tiler) -> np.ndarray:
    """Return an encoded image → uint8 (tiles, 3, side, side), as many as `exact` makes.

    Raises:
        SampleError: as `load_image`.
    """
    size = canvas(tiler.grid(*image_size(part, where)), tiler.tile_size)
    image = load_image(part, where, at_least=size)
    if isinstance(tiler, MiddleSquare):
        return tiler.tiles(image)
    seen = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, height, width)
    pixels = resize(seen, *size)
    smaller = min(seen, pixels, key=torch.Tensor.numel)  # both show the whole image
    overview = resize(smaller, tiler.tile_size, tiler.tile_size)
    return tiles_of(pixels.permute(1, 2, 0), overview.permute(1, 2, 0), tiler.overview_first)


def resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize uint8 (3, height, width)."""
    if pixels.shape[1:] == (height, width):
        return pixels
    return interpolate(pixels.unsqueeze(0), (height, width), mode="bicubic", antialias=True)[0]
