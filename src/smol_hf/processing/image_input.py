"""Images in any form that the processor accepts → PIL images."""

import base64
import binascii
import io
import os
import re
import struct
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from PIL import Image, ImageOps, UnidentifiedImageError

from .image_pixels import as_array, flatten_to_rgb, from_array

URLS = ("http://", "https://", "data:image/")
FILE_URL = "file://"
IMAGE_KEYS = ("image", "image_url", "path", "url", "base64")
IMAGE_FORMS = "a PIL image, a path, a URL, base64, encoded bytes, or an array (height, width, channels)"
# What Pillow, NumPy and urllib raise for images that they cannot read.
IMAGE_DAMAGE = (
    OSError, SyntaxError, EOFError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, MemoryError,
    struct.error, zlib.error, HTTPException, Image.DecompressionBombError,
)  # fmt: skip
LONGEST_PATH = 4096
BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}\s*")


def image_in(part):
    """Return the value of an image part: {"type": "image"} with one of IMAGE_KEYS, or OpenAI's "image_url"."""
    given = [part[key] for key in IMAGE_KEYS if part.get(key) is not None]
    if len(given) != 1:
        raise ValueError(
            f"an image part has {len(given)} images instead of one: "
            'give {"type": "image", "image": PIL image, array, path or URL}'
        )
    image = given[0]
    return image["url"] if isinstance(image, dict) and "url" in image else image


def as_image(image, layout=None):
    """Load a PIL image in RGB.

    The pixels are those of training: rotated by the EXIF tag, transparent parts on white, 16 bits scaled to 8, floats
    from [0, 1].

    Args:
        image: a PIL image, a path, a URL, base64, encoded bytes, or an array or tensor: (height, width), or with 1, 3
            or 4 channels last or first.
        layout: "channels_first" or "channels_last", for arrays that fit both.

    Raises:
        FileNotFoundError: for a text that names no image.
        ValueError: for everything else that is not one readable image, and for pixels without a known white.
    """
    try:
        if not isinstance(image, Image.Image):
            image = image_of(image, layout)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph with its previews
        if frames > 1:
            raise ValueError(f"the image has {frames} frames or pages: give one of them")
        return flatten_to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("the image cannot be read: Pillow does not know its format") from error
    except IMAGE_DAMAGE as error:
        raise ValueError(f"the image cannot be read: {error}") from error


def image_of(value, layout):
    """Open an image that is given in another form than Pillow's."""
    if isinstance(value, (str, Path)):
        return open_image(str(value))
    if isinstance(value, (bytes, bytearray)):
        return Image.open(io.BytesIO(value))
    pixels = as_array(value) if isinstance(value, (list, tuple)) or hasattr(value, "ndim") else None
    if pixels is None or pixels.dtype.kind not in "buif":
        raise ValueError(f"an image is {shown_value(value)}: give {IMAGE_FORMS}")
    return from_array(pixels, layout)


def open_image(place):
    if place.startswith(URLS):
        try:
            with urlopen(place, timeout=30) as answer:
                return Image.open(io.BytesIO(answer.read()))
        except ValueError as error:
            raise ValueError(f"the image cannot be read: it has an invalid URL ({error})") from error
    path = place.removeprefix(FILE_URL)
    if len(path) < LONGEST_PATH and os.path.isfile(path):
        return Image.open(path)
    try:
        return Image.open(io.BytesIO(base64.b64decode("".join(place.split()), validate=True)))
    except (binascii.Error, ValueError, OSError) as error:
        shown = place if len(place) <= 100 else f"{place[:100]}…"
        raise FileNotFoundError(f"the image {shown!r} is neither a file nor a URL nor base64: correct it") from error


def shown_value(value):
    """Show a wrong value in an error: a short one itself, else its type."""
    if value is None or (isinstance(value, (str, int, float, list, tuple, dict)) and len(repr(value)) <= 60):
        return repr(value)
    facts = [f" of {name} {getattr(value, name)}" for name in ("shape", "dtype") if hasattr(value, name)]
    return f"a value of type {type(value).__name__}{''.join(facts)}"


def is_image(value):
    """Tell if a value is an image, or a list with an image, of a type that texts do not have."""
    if isinstance(value, (list, tuple)):
        return any(is_image(each) for each in value)
    return isinstance(value, (Image.Image, Path, bytes)) or hasattr(value, "ndim")


def is_text(value):
    """Tell if a value is a string or a list of strings."""
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(each, str) for each in value)
    )


def is_image_place(value):
    """Tell if strings name images: files, URLs, or base64 that is longer than any word of a prompt."""
    values = [value] if isinstance(value, str) else value
    return all(
        each.startswith((*URLS, FILE_URL))
        or (len(each) < LONGEST_PATH and os.path.exists(each))
        or (len(each) > 100 and BASE64.fullmatch(each) is not None)
        for each in values
    )
