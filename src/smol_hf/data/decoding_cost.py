"""Encoded images that would take long to read or decode, known by cheap looks at the file.

A limit of time itself would make the sequence of samples depend on the machine and on what else it does. So what is
bounded here are the things that time was measured to grow with, such that a picture within all limits (300 MB, 50
megapixels and these) is decoded within about two seconds by one core of 2020 or later.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from smol_hf.data.conversation import ImagePart, SampleError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
WALKED_FROM = 1_000_000  # bytes; smaller files cannot hold enough parts to matter
PNG_CHUNKS = 100_000
JPEG_SEGMENTS = 10_000
GIF_SPARE_BYTES = 8_000_000  # beyond two for each pixel, which no single frame needs
SCAN_MEGAPIXELS = 1000.0  # of progressive JPEGs: scans × megapixels. Encoders write about ten scans
PLAIN_TEXT_BYTES = 4_000_000  # of PPMs that hold numbers as text
LOSSY_WEBP_BYTES = 30_000_000
JPEG2000_SECONDS = 2.0
SECONDS_PER_MEGAPIXEL, SECONDS_PER_MEGABYTE = 0.03, 0.2  # of JPEG 2000

Bytes = bytes | mmap.mmap


@contextmanager
def whole(part: ImagePart) -> Iterator[Bytes]:
    """The encoded image; of a file only the pages that are looked at are read."""
    if part.content is not None or part.path is None or not Path(part.path).stat().st_size:
        yield part.content or b""
        return
    with Path(part.path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def check_parts(part: ImagePart, size: int, where: str, name: str) -> None:
    """Raises SampleError for a file of so many parts that reading its header takes long. `size`: its bytes."""
    if size < WALKED_FROM:
        return
    with whole(part) as content:
        beginning = content[:16]
        if beginning.startswith(b"\x89PNG\r\n\x1a\n") and has_many_chunks(content):
            raise SampleError(where, f"{name} has more than {PNG_CHUNKS:,} chunks: save the picture anew")
        if beginning.startswith(b"\xff\xd8") and has_many_segments(content):
            raise SampleError(where, f"{name} has more than {JPEG_SEGMENTS:,} segments: save the picture anew")
        if beginning.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", beginning, 6)
            if size > 2 * width * height + GIF_SPARE_BYTES:
                raise SampleError(
                    where,
                    f"{name} has {size:,} bytes, more than one frame of {width}x{height} needs: save the frame that "
                    "is meant as a picture",
                )


def has_many_chunks(content: Bytes) -> bool:
    at = 8
    for _ in range(PNG_CHUNKS):
        if at + 12 > len(content):
            return False
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return True


def has_many_segments(content: Bytes) -> bool:
    """Up to where the picture begins. Between segments any number of bytes may be 0xff."""
    at = 2
    for _ in range(JPEG_SEGMENTS):
        if at + 4 > len(content) or content[at] != 0xFF or content[at + 1] == 0xDA:
            return False
        at += 1 if content[at + 1] == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return True


def check_decoding(image: Image.Image, part: ImagePart, size: int, where: str, name: str) -> None:
    """Raises SampleError for an opened image whose pixels take long. `size`: its encoded bytes."""
    megapixels = image.width * image.height / 1e6
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        most = math.floor(SCAN_MEGAPIXELS / megapixels)
        with whole(part) as content:
            if has_more_scans(content, most):
                problem = f"has more than {most} scans of {megapixels:.1f} megapixels: save it not progressive"
                raise SampleError(where, f"{name} {problem}")
    if image.format == "PPM" and size > PLAIN_TEXT_BYTES and is_plain_text(part):
        raise SampleError(where, f"{name} holds {size:,} bytes of numbers as text: save it as a PNG")
    if image.format == "WEBP" and size > LOSSY_WEBP_BYTES and is_lossy(part):
        raise SampleError(where, f"{name} has {size:,} bytes of a lossy WebP: save it with a lower quality")
    seconds = SECONDS_PER_MEGAPIXEL * megapixels + SECONDS_PER_MEGABYTE * size / 1e6
    if image.format == "JPEG2000" and seconds > JPEG2000_SECONDS:
        raise SampleError(
            where,
            f"{name} has {megapixels:.0f} megapixels in {size / 1e6:.0f} MB of JPEG 2000, which takes more than about "
            f"{JPEG2000_SECONDS:g} seconds to decode: save it as a JPEG or PNG",
        )


def has_more_scans(content: Bytes, most: int) -> bool:
    """In the data of a picture the marker of a scan stands nowhere else."""
    at = -1
    for _ in range(most + 1):
        at = content.find(b"\xff\xda", at + 1)
        if at < 0:
            return False
    return True


def is_lossy(part: ImagePart) -> bool:
    """Whether the first chunk of pixels in a WebP is of the lossy kind."""
    with whole(part) as content:
        at = 12
        for _ in range(16):
            kind, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
            if kind in (b"VP8 ", b"VP8L"):
                return kind == b"VP8 "
            at += 8 + length + length % 2
    return True


def is_plain_text(part: ImagePart) -> bool:
    with whole(part) as content:
        return content[:2] in (b"P1", b"P2", b"P3")
