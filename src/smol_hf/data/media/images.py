"""Decode encoded images to RGB correctly, or refuse them with a reason.

Common decoders make silent mistakes here. This module scales 16-bit greys instead of clipping them, applies the EXIF
orientation, puts transparent pixels on white, and refuses animations.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.processing.image_pixels import flatten_to_rgb

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAXIMUM_PIXELS = 50_000_000
MAXIMUM_BYTES = 300_000_000
MAXIMUM_ASPECT = 200
IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = (
    ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength, ExifTags.Base.Orientation,
)  # fmt: skip
QUARTER_TURNS = (5, 6, 7, 8)  # values of the orientation tag (in EXIF or XMP)
PNG_TAGS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
# Errors that Pillow's decoders raise about damaged files.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def image_name(part: ImagePart) -> str:
    return part.path or "the embedded image"


def open_encoded(part: ImagePart) -> BinaryIO:
    """Open the encoded image as a binary stream.

    Raises:
        OSError: for a missing file.
        ValueError: for a part with both `content` and `path`, or neither.
    """
    if part.content is not None and part.path is None:
        return io.BytesIO(part.content)
    if part.content is None and part.path is not None:
        return open(part.path, "rb")
    raise ValueError("an ImagePart has either encoded bytes (content) or a path")


def image_error(error: Exception, part: ImagePart, where: str, problem: str) -> SampleError:
    """Return the SampleError that names an image for which a decoder raised one of `DAMAGE`."""
    if isinstance(error, FileNotFoundError):
        return SampleError(where, f"the image {image_name(part)} does not exist")
    if isinstance(error, UnidentifiedImageError):
        problem = f"is not an image that can be read: it must be one of {', '.join(FORMATS)}"
        return SampleError(where, f"{image_name(part)} {problem}")
    if isinstance(error, Image.DecompressionBombError):
        return SampleError(where, f"{image_name(part)} has too many pixels ({error}): make it smaller")
    return SampleError(where, f"{image_name(part)} {problem}: {error}")


def check_bytes(part: ImagePart, where: str, maximum: int = MAXIMUM_BYTES) -> int:
    """Return the size of an encoded image in bytes, without reading it; 0 for a missing file, which fails at opening.

    Raises:
        SampleError: for more bytes than `maximum`, and for a path that is not a regular file, such as a pipe.
    """
    size = len(part.content) if part.content is not None else 0
    if part.path is not None:
        try:
            is_file = os.path.isfile(part.path)
            is_other = not is_file and os.path.exists(part.path)
            size = os.path.getsize(part.path) if is_file else 0
        except DAMAGE as error:
            raise image_error(error, part, where, "cannot be read") from error
        if is_other:
            raise SampleError(where, f"{image_name(part)} is not a file: give the path of one")
    if size > maximum:
        raise SampleError(
            where, f"{image_name(part)} has {size:,} bytes, more than {maximum:,} (max_image_bytes): make it smaller"
        )
    return size


def open_image(part: ImagePart, where: str) -> Image.Image:
    """Read the header of an image, without decoding a pixel.

    Args:
        where: the name of the sample, for messages.

    Raises:
        SampleError: for a missing file, a file that is not an image, and an unsupported size or kind.
    """
    check_bytes(part, where)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images before the limit below refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(open_encoded(part), formats=FORMATS)
            # A camera's MPO is one photograph with its previews. Counting frames may take minutes: one more is enough.
            is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except DAMAGE as error:
        raise image_error(error, part, where, "cannot be read") from error
    width, height = image.size
    problem = ""
    if width * height > MAXIMUM_PIXELS:
        limit = f"{width * height / 1e6:.0f} megapixels; the limit is {MAXIMUM_PIXELS / 1e6:.0f}"
        problem = f"is {width}x{height}, {limit}: make it smaller"
    elif min(width, height) < 2:
        problem = f"is {width}x{height}: an image of one pixel's width shows nothing"
    elif max(width, height) > MAXIMUM_ASPECT * min(width, height):
        problem = f"is {width}x{height}, more than {MAXIMUM_ASPECT}:1: crop it"
    elif is_animated:
        problem = "has several frames or pages: save one of them as an image"
    if problem:
        raise SampleError(where, f"{image_name(part)} {problem}")
    return image


def image_size(part: ImagePart, where: str) -> tuple[int, int]:
    """Read (height, width) of an image, after its orientation tag is applied. Raises SampleError, as `open_image`."""
    with open_image(part, where) as image:
        try:
            # Pillow turns the size of a TIFF by itself, so its tags are read. It does not turn that of other formats.
            tags = getattr(image, "tag_v2", {})
            width, height = tags.get(IMAGE_WIDTH, image.width), tags.get(IMAGE_LENGTH, image.height)
            if image.format != "PNG" or has_late_tags(part):
                exif = image.getexif()
            else:  # PNG's own getexif decodes all pixels to look for tags after them
                exif = Image.Image.getexif(image)
            return (width, height) if exif.get(ORIENTATION) in QUARTER_TURNS else (height, width)
        except DAMAGE as error:
            raise image_error(error, part, where, "cannot be read") from error


def has_late_tags(part: ImagePart) -> bool:
    """Return True for a PNG with chunks after its pixels that may contain an orientation."""
    with open_encoded(part) as file:
        file.seek(8)
        pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind in PNG_TAGS:
                return True
            pixels = pixels or kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)
    return False


def load_image(part: ImagePart, where: str, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image to RGB.

    Args:
        at_least: a sufficient (height, width). A JPEG of twice this size or more is decoded at a half, a quarter or
            an eighth, which costs less. Other images are decoded at full size.

    Raises:
        SampleError: as `open_image`, and for damaged or missing pixels.
    """
    image = open_image(part, where)
    try:
        if image.format == "PNG":
            with Image.open(open_encoded(part), formats=("PNG",)) as same:
                same.verify()  # checksums of all chunks: a flipped byte in a small image decodes to other pixels
        elif at_least is not None:
            height, width = at_least
            is_turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
            image.draft(None, (height, width) if is_turned else (width, height))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return flatten_to_rgb(image)
    except DAMAGE as error:
        raise image_error(error, part, where, "is damaged") from error
