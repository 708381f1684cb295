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

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.processing.image_pixels import flatten_to_rgb

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAXIMUM_PIXELS = 50_000_000
MAXIMUM_BYTES = 300_000_000
MAXIMUM_ASPECT = 200
IMAGE_WIDTH, IMAGE_LENGTH = ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength
QUARTER_TURNED = (5, 6, 7, 8)
PNG_TAGS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")


def image_name(part: ImagePart) -> str:
    return part.path or "the embedded image"


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
    check_bytes(part, where)
    with reading(part, where, "cannot be read"), warnings.catch_warnings():
        # Pillow warns about large pictures before our own limit below refuses them.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(part.open(), formats=FORMATS)
        # A camera's MPO is one photograph with its previews. Counting frames may take minutes: one more is enough.
        is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
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
    if is_animated:
        raise SampleError(where, f"{name} has several frames or pages: save the one that is meant as an image")
    return image


def image_size(part: ImagePart, where: str) -> tuple[int, int]:
    """`upright_size` of an image, from its header alone. Raises SampleError, as `open_image`."""
    with open_image(part, where) as image:
        return upright_size(image, part, where)


def upright_size(image: Image.Image, part: ImagePart, where: str) -> tuple[int, int]:
    """(height, width) in pixels of an opened image as a viewer shows it, turned by its orientation tag."""
    with reading(part, where, "cannot be read"):
        # Pillow turns the size of a TIFF by itself, so its tags are read; of other formats it leaves it as it is.
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(IMAGE_WIDTH, image.width), tags.get(IMAGE_LENGTH, image.height)
        return (width, height) if lies_on_its_side(image, part) else (height, width)


def lies_on_its_side(image: Image.Image, part: ImagePart) -> bool:
    """Whether the orientation tag of an opened image (in EXIF or XMP) asks viewers for a quarter turn."""
    if image.format != "PNG" or has_late_tags(part):
        exif = image.getexif()
    else:
        exif = Image.Image.getexif(image)  # PNG's own decodes the whole image to look for tags after the pixels
    return exif.get(ExifTags.Base.Orientation) in QUARTER_TURNED


def has_late_tags(part: ImagePart) -> bool:
    """Whether a PNG has chunks after its pixels in which an orientation may stand."""
    with part.open() as file:
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
            image.draft(None, at_least if lies_on_its_side(image, part) else at_least[::-1])
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return flatten_to_rgb(image)
