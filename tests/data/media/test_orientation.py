"""The orientation tag of every format: the size from the header, the tiles of both paths and inference agree."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers import build_processor
from PIL import Image, ImageOps

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.data.media.images import image_size, load_image
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.processing.image_input import as_image

FORMATS = {
    "JPEG": ("JPEG", {"quality": 95}), "PNG": ("PNG", {}), "WEBP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 95}), "MPO": ("MPO", {"quality": 95}), "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}), "TIFF, JPEG": ("TIFF", {"compression": "jpeg"}),
}  # fmt: skip
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def page(height=60, width=180):
    """Every corner in a colour of its own."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    for corner, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250), (0, 0, 0)]):
        rows = slice(0, height // 2) if corner < 2 else slice(height // 2, height)
        columns = slice(0, width // 2) if corner % 2 == 0 else slice(width // 2, width)
        pixels[rows, columns] = colour
    return Image.fromarray(pixels)


def tagged(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    name, options = FORMATS[kind]
    stream = io.BytesIO()
    page().save(stream, name, exif=exif, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def late(kind, orientation):
    """A PNG whose tag stands after its pixels, or in XMP before or after them."""
    stream = io.BytesIO()
    page().save(stream, "PNG")
    png = stream.getvalue()
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(orientation).encode())
    added = chunk(b"eXIf", exif.tobytes()[6:]) if kind == "exif after" else xmp
    place = 33 if kind == "xmp before" else png.index(b"IEND") - 4
    return png[:place] + added + png[place:]


def upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    page().save(stream, "PNG", exif=exif)
    return np.asarray(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))


def check(content, orientation):
    part, expected = ImagePart(content=content), upright(orientation)
    assert image_size(part, "x") == expected.shape[:2]
    for image in (load_image(part, "x"), as_image(content)):
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 3
    asked = Message("user", (part, TextPart("What?")))
    conversation = Conversation("a:1", (asked, Message("assistant", (TextPart("A page."),))))
    processor = build_processor(longest_edge=96)
    tiles = processor.tiles([Image.fromarray(expected)]).astype(int)
    for path in ("exact", "fast"):
        work = SampleWork(processor, 400, [None], image_resizing=path)
        sample = work.prepare(0, "a:1", conversation)
        made = work.encode(0, sample).tiles.numpy().astype(int)
        assert made.shape == tiles.shape and sample.num_tiles == len(tiles)
        assert sample.input_ids.count(processor.image_token_id) == 4 * len(tiles)
        assert np.abs(made - tiles).mean() < 6, "a tile that is turned or in the wrong place differs by more than 50"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_is_tiled_as_a_viewer_shows_it(kind, orientation):
    check(tagged(kind, orientation), orientation)


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("kind", ["exif after", "xmp before", "xmp after"])
def test_tags_that_stand_elsewhere_in_a_png_count_too(kind, orientation):
    check(late(kind, orientation), orientation)
