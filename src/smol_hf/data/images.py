"""Encoded images → RGB pictures, correctly or not at all.

Every refusal says why. What decoders do silently wrong today is done right here: 16-bit greys are scaled instead of
clipped, photographs are turned as their EXIF tag says, transparency shows a white page, and of an animation no frame
is picked for the user.
"""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.modeling.image_tiling import flatten_to_rgb

MAXIMUM_PIXELS = 50_000_000
MAXIMUM_ASPECT = 200
EXIF_ORIENTATION = 0x0112
QUARTER_TURNED = (5, 6, 7, 8)


def image_name(part: ImagePart) -> str:
    return part.path if part.path is not None else "the embedded image"


def open_image(part: ImagePart, where: str) -> Image.Image:
    """Read the header of an image: size and format are known, no pixel is decoded.

    Raises:
        SampleError: when it is missing, not an image, or of a size or kind that cannot be used. `where` names the
            sample in the message.
    """
    name = image_name(part)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures before our own limit below refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(part.open())
    except FileNotFoundError as error:
        raise SampleError(where, f"the image {name} does not exist") from error
    except UnidentifiedImageError as error:
        raise SampleError(where, f"{name} is not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise SampleError(where, f"{name} has too many pixels ({error}); make it smaller") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise SampleError(where, f"{name} cannot be read: {error}") from error
    width, height = image.size
    if width * height > MAXIMUM_PIXELS:
        raise SampleError(
            where,
            f"{name} is {width}x{height}, {width * height / 1e6:.0f} megapixels; the limit is "
            f"{MAXIMUM_PIXELS / 1e6:.0f}: make it smaller",
        )
    if min(width, height) < 2:
        raise SampleError(where, f"{name} is {width}x{height}: a picture of one pixel's width shows nothing")
    if max(width, height) > MAXIMUM_ASPECT * min(width, height):
        raise SampleError(where, f"{name} is {width}x{height}, more than {MAXIMUM_ASPECT}:1: crop it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise SampleError(where, f"{name} holds {frames} frames or pages: save the one that is meant as a picture")
    return image


def image_size(part: ImagePart, where: str) -> tuple[int, int]:
    """(height, width) in pixels as a viewer shows it (turned by the EXIF tag), from the header alone."""
    with open_image(part, where) as image:
        width, height = image.size
        if image.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNED:
            width, height = height, width
        return height, width


def load_image(part: ImagePart, where: str) -> Image.Image:
    """Decode an image to RGB.

    Raises:
        SampleError: as `open_image`, and when the pixels are damaged or cut off.
    """
    image = open_image(part, where)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        return flatten_to_rgb(to_eight_bits(image))
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise SampleError(where, f"{image_name(part)} is damaged: {error}") from error


def to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and 32-bit integer and float greys → 8 bits. Pillow's own conversion clips them instead of scaling.

    Raises:
        ValueError: for values whose range is not known (floats outside [0, 1], integers above 65535).
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if values.min() < 0 or values.max() > 1:
            raise ValueError("float pixels outside [0, 1] have no known white; save the picture with 8 or 16 bits")
        values *= 255
    else:
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels beyond 16 bits have no known white; save the picture with 8 or 16 bits")
        values /= 257  # 65535 → 255
    return Image.fromarray(values.round().astype(np.uint8))
