"""The handwritten digits, read from the shipped file."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

SPLITS = ("train", "test")

# A digit is 8x8 and fills its rows. A frame of one cell of paper allows a slight rotation and shear.
CELLS = 8
FRAMED_CELLS = CELLS + 2


@dataclass(frozen=True)
class DigitSet:
    """The digits of one split.

    `index` (digits,) is each digit's position in scikit-learn's `load_digits()`, `label` (digits,) is 0 to 9, and
    `pixels` (digits, 8, 8) is uint8 with 0 for paper and 16 for full ink.
    """

    index: np.ndarray
    label: np.ndarray
    pixels: np.ndarray

    @functools.cached_property
    def rows_by_label(self) -> list[list[int]]:
        """The rows of each label 0 to 9."""
        return [np.flatnonzero(self.label == label).tolist() for label in range(10)]

    @functools.cached_property
    def images(self) -> list[Image.Image]:
        """Each digit as a 10x10 greyscale image, ink white, with a frame of one cell of paper around it."""
        framed = np.pad(self.pixels, ((0, 0), (1, 1), (1, 1)))
        return [Image.fromarray(digit) for digit in np.minimum(framed.astype(np.int32) * 16, 255).astype(np.uint8)]


@functools.cache
def load_digits(split: str) -> DigitSet:
    """Load the digits of `split`, "train" (1,501) or "test" (296). Raises ValueError for another name."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    table = pq.read_table(Path(__file__).with_name("digits.parquet")).combine_chunks()
    chosen = np.array(table["split"].to_pylist()) == split
    pixels = table["pixels"].chunk(0).flatten().to_numpy().reshape(-1, CELLS, CELLS)
    return DigitSet(table["index"].to_numpy()[chosen], table["label"].to_numpy()[chosen], pixels[chosen])
