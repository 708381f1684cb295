"""The drawing of a page: its random numbers, the places of its digits, and the image."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from smol_hf.data.digits.digits import CELLS, FRAMED_CELLS, SPLITS

T = TypeVar("T")
Box = tuple[int, int, int, int]


class PageDraws:
    """The random numbers of one page or clip. A counter-based generator makes them a function of the arguments.

    Args:
        stream: 0 for pages, 1 for clips.
    """

    def __init__(self, seed: int, split: str, index: int, stream: int = 0):
        key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)
        self._random = np.random.Generator(np.random.Philox(key=key, counter=[0, index, stream, 0])).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def below(self, bound: int) -> int:
        return int(self._random() * bound)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


def draw_digit(image: Image.Image, height: float, rotation: float, shear: float) -> Image.Image:
    """Return the ink of one digit, `height` pixels high before it is turned, cut to the pixels that hold ink.

    `image` is one of `DigitSet.images`; `rotation` is in radians; `shear` is the sideways shift per unit of height.
    Returns a greyscale image: 0 is paper, 255 is full ink.
    """
    side = math.ceil(height * FRAMED_CELLS / CELLS)
    cells = CELLS / height  # source cells per drawn pixel
    cosine, sine = cells * math.cos(rotation), cells * math.sin(rotation)
    across = (cosine, sine + cells * shear)
    down = (-sine, cosine)
    # PIL needs the source position of each drawn pixel. Both centres coincide.
    coefficients = tuple(value for x, y in (across, down) for value in (x, y, FRAMED_CELLS / 2 - (x + y) * side / 2))
    drawn = image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return drawn.crop(drawn.getbbox())


# Given the (width, height) of each digit, the page's side, the pixels per 1/32 of that side, and random numbers: the
# box of each digit, at least one pixel inside the page, or None when they do not fit.
Layout = Callable[[list[tuple[int, int]], int, float, PageDraws], list[Box] | None]


def _box(left: float, top: float, size: tuple[int, int]) -> Box:
    return int(left), int(top), int(left) + size[0], int(top) + size[1]


def _height_on_line(height: float, page_size: int, pixel: float, draws: PageDraws) -> float:
    """Return the top of a digit that is written roughly on the middle line of the page."""
    middle = (page_size - height) / 2
    return min(max(middle + draws.between(-1, 1) * pixel, 1), page_size - 1 - height)


def place_on_line(sizes: list[tuple[int, int]], page_size: int, pixel: float, draws: PageDraws) -> list[Box] | None:
    """Return boxes in a row, at least two (scaled) pixels apart, with random spare width; None if they do not fit."""
    gap = 2 * pixel
    spare = page_size - 2 - sum(width for width, _ in sizes) - gap * (len(sizes) - 1)
    if spare < 0:
        return None
    reach = min(0.25 * spare, 3 * pixel)
    shares = sorted(spare / 2 + draws.between(-reach, reach) for _ in sizes)
    boxes, used = [], 1.0
    for (width, height), share in zip(sizes, shares, strict=True):
        boxes.append(_box(used + share, _height_on_line(height, page_size, pixel, draws), (width, height)))
        used += width + gap
    return boxes


def place_as_number(sizes: list[tuple[int, int]], page_size: int, pixel: float, draws: PageDraws) -> list[Box] | None:
    """Return two boxes on one line, as a number is written; None if they do not fit."""
    (left_width, left_height), (right_width, right_height) = sizes
    gap = draws.between(2, 3.5) * pixel
    spare = page_size - 2 - left_width - right_width - gap
    if spare < 0:
        return None
    left = 1 + draws.between(0.25 * spare, 0.75 * spare)
    tallest = max(left_height, right_height)
    line = _height_on_line(tallest, page_size, pixel, draws) + tallest
    return [
        _box(left, line - left_height, sizes[0]),
        _box(left + left_width + gap, line - right_height + draws.between(0, 1) * pixel, sizes[1]),
    ]


def draw_page(images: list[Image.Image], layout: Layout, page_size: int, draws: PageDraws) -> tuple[bytes, list[Box]]:
    """Draw the digits on one sheet of `page_size` x `page_size` pixels, dark on light.

    `images` are of `DigitSet.images`. Returns the encoded RGB PNG and the box of each digit, in the order given.
    """
    pixel = page_size / 32  # the lengths below are those of a 32-pixel page
    paper, ink = round(draws.between(220, 255)), round(draws.between(0, 60))
    writing = draws.between(11, 13)  # one writer writes at about one size
    shapes = [(draws.between(0.95, 1.05), draws.between(-0.08, 0.08), draws.between(-0.08, 0.08)) for _ in images]
    boxes = None
    while boxes is None:
        masks = [
            draw_digit(image, pixel * writing * size, rotation, shear)
            for image, (size, rotation, shear) in zip(images, shapes, strict=True)
        ]
        boxes = layout([mask.size for mask in masks], page_size, pixel, draws)
        writing *= 0.95  # where the digits did not fit, they are drawn a little smaller
    return sheet(masks, boxes, page_size, paper, ink), boxes


def sheet(masks: list[Image.Image], boxes: list[Box], page_size: int, paper: int, ink: int) -> bytes:
    """Draw the ink of digits on one sheet of paper. Returns the encoded RGB PNG."""
    page = Image.new("L", (page_size, page_size), paper)
    for mask, box in zip(masks, boxes, strict=True):
        page.paste(ink, box, mask)
    stream = io.BytesIO()
    page.convert("RGB").save(stream, "PNG", compress_level=1)
    return stream.getvalue()
