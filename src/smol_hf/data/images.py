"""Encoded images → RGB pictures, correctly or not at all.

Every refusal says why. What decoders do silently wrong today is done right here: 16-bit greys are scaled instead of
clipped, photographs are turned as their EXIF tag says, transparency shows a white page, and of an animation no frame
is picked for the user.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageOps, UnidentifiedImageError

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.decoding_cost import FORMATS, check_decoding, check_parts
from smol_hf.modeling.image_input import frames_of
from smol_hf.modeling.image_tiling import flatten_to_rgb

MAXIMUM_PIXELS = 50_000_000
MAXIMUM_BYTES = 300_000_000
MAXIMUM_ASPECT = 200
EXIF_ORIENTATION = 0x0112
QUARTER_TURNED = (5, 6, 7, 8)


def image_name(part: ImagePart) -> str:
    return part.fetched_from or part.path or part.url or "the embedded image"


# What Pillow's decoders were seen to raise about damaged files, beside the errors with a meaning of their own.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def reading(part: ImagePart, where: str, problem: str) -> Iterator[None]:
    """Whatever a decoder raises about a damaged file becomes a SampleError that names it."""
    try:
        yield
    except SampleError:
        raise
    except FileNotFoundError as error:
        raise SampleError(where, f"the image {image_name(part)} does not exist") from error
    except UnidentifiedImageError as error:
        problem = f"is not an image that can be read: it must be one of {', '.join(FORMATS)}"
        raise SampleError(where, f"{image_name(part)} {problem}") from error
    except Image.DecompressionBombError as error:
        raise SampleError(where, f"{image_name(part)} has too many pixels ({error}); make it smaller") from error
    except DAMAGE as error:
        raise SampleError(where, f"{image_name(part)} {problem}: {error}") from error


def check_bytes(part: ImagePart, where: str, maximum: int = MAXIMUM_BYTES) -> int:
    """The size of an encoded image. Nothing is read, and a file that is not there (0) is missed by whoever opens it.

    Raises:
        SampleError: for more bytes than `maximum`, and for what is no file, such as a pipe that never ends.
    """
    size = len(part.content) if part.content is not None else 0
    if part.path is not None:
        with reading(part, where, "cannot be read"):
            if os.path.exists(part.path) and not os.path.isfile(part.path):
                raise SampleError(where, f"{image_name(part)} is not a file: give the path of one")
            size = os.path.getsize(part.path) if os.path.isfile(part.path) else 0
    if size > maximum:
        raise SampleError(
            where, f"{image_name(part)} has {size:,} bytes, more than {maximum:,} (max_image_bytes): make it smaller"
        )
    return size


def open_image(part: ImagePart, where: str) -> Image.Image:
    """Read the header of an image: size and format are known, no pixel is decoded.

    Raises:
        SampleError: when it is missing, not an image, or of a size or kind that cannot be used. `where` names the
            sample in the message.
    """
    name = image_name(part)
    size = check_bytes(part, where)
    with reading(part, where, "cannot be read"), warnings.catch_warnings():
        # Pillow warns about large pictures before our own limit below refuses them.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        check_parts(part, size, where, name)
        image = Image.open(part.open(), formats=FORMATS)
        # Counting the pages of a TIFF may take minutes, to know that there is a second takes nothing.
        frames = frames_of(image) if image.format != "TIFF" else "several" if image.is_animated else 1
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
    if frames != 1:
        raise SampleError(where, f"{name} holds {frames} frames or pages: save the one that is meant as a picture")
    with reading(part, where, "cannot be read"):
        check_decoding(image, part, size, where, name)
    return image


def image_size(part: ImagePart, where: str) -> tuple[int, int]:
    """(height, width) in pixels as a viewer shows it (turned by the EXIF tag), from the header alone."""
    with open_image(part, where) as image:
        return size_shown(image, part, where)


def size_shown(image: Image.Image, part: ImagePart, where: str) -> tuple[int, int]:
    with reading(part, where, "cannot be read"):
        width, height = image.size
        return (width, height) if lies_on_its_side(image) else (height, width)


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether the EXIF tag asks viewers for a quarter turn."""
    # A PNG is decoded whole when it is asked for a tag that its header does not have.
    tagged = image.format != "PNG" or "exif" in image.info
    return tagged and image.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNED


def load_image(part: ImagePart, where: str, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Open an image and decode it to RGB, see `decode`. Raises SampleError, as `open_image` and `decode`."""
    return decode(open_image(part, where), part, where, at_least)


def decode(image: Image.Image, part: ImagePart, where: str, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The pixels of an image that was opened, in RGB.

    Args:
        at_least: (height, width) that suffice. A JPEG that is twice as large or more is decoded at a half, a quarter
            or an eighth, which costs less; anything else comes whole.

    Raises:
        SampleError: when the pixels are damaged or cut off.
    """
    with reading(part, where, "is damaged"):
        if image.format == "PNG":
            with Image.open(part.open(), formats=("PNG",)) as same:
                same.verify()  # checksums of all chunks: a flipped byte in a small picture decodes to other pixels
        if at_least is not None:
            image.draft(None, at_least if lies_on_its_side(image) else at_least[::-1])
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return flatten_to_rgb(image)
