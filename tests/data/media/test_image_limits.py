"""Limits on bytes, pixels and frames of an image: each is checked before a pixel is decoded."""

import io
import os
import struct
import threading
import zlib

import pytest
from media_files import picture
from PIL import Image, ImageFile, TiffImagePlugin

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.media import images
from smol_hf.data.media.images import image_size


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def after(content, place, more):
    return content[:place] + more + content[place:]


def png_of(width, height):
    """The header says this size."""
    header = struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:8] + chunk(b"IHDR", header) + PNG[33:]


PNG = picture()
GIF_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
GIF = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + bytes(6)
REFUSED = {
    "GIF of many frames": (GIF + GIF_FRAME * 600_000 + b";", "has several frames"),
    "PNG of 51 megapixels": (png_of(8500, 6000), "8500x6000, 51 megapixels; the limit is 50"),
    "PNG of 10,000 megapixels": (png_of(100_000, 100_000), "too many pixels"),
    "PNG with text that explodes": (
        after(PNG, 33, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 1))), "too large",
    ),
    "PNG with a colour profile that explodes": (
        after(PNG, 33, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000), 1))), "too large",
    ),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n0 0 moveto", "must be one of"),
    "Photoshop": (b"8BPS" + b"\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3), "must be one of"),
    "FITS": (b"SIMPLE  =                    T" + b" " * 50, "must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_its_header(name, tmp_path, monkeypatch):
    content, problem = REFUSED[name]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels are decoded"))
    (tmp_path / "costly").write_bytes(content)
    for part in (ImagePart(content=content), ImagePart(path=str(tmp_path / "costly"))):
        with pytest.raises(SampleError, match=problem):
            image_size(part, "rows:1")


def test_a_tiff_of_very_many_pages_is_not_counted(monkeypatch):
    stream = io.BytesIO()
    page = Image.new("L", (2, 2))
    page.save(stream, "TIFF", save_all=True, append_images=[page] * 3)
    pages = property(lambda image: pytest.fail("pages are counted"))
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", pages)
    with pytest.raises(SampleError, match="has several frames or pages"):
        image_size(ImagePart(content=stream.getvalue()), "rows:1")


def test_an_encoded_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(images.MAXIMUM_BYTES + 1)
    with pytest.raises(SampleError, match=r"huge\.png has 300,000,001 bytes, more than 300,000,000"):
        image_size(ImagePart(path=str(huge)), "rows:1")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        found = []

        def read(path=path, found=found):
            with pytest.raises(SampleError, match="is not a file"):
                image_size(ImagePart(path=str(path)), "rows:1")
            found.append(path)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(60)
        assert found == [path], "it waits for ever"
