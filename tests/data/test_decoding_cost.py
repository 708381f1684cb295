"""Small files that would cost much: each is refused by a look at its parts, before it is decoded."""

import io
import os
import struct
import threading
import zlib

import pytest
from media_files import picture
from PIL import Image, ImageFile, TiffImagePlugin

from smol_hf.data import images
from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.decoding_cost import PNG_CHUNKS, SCAN_MEGAPIXELS
from smol_hf.data.images import image_size, load_image


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def after(content, place, more):
    return content[:place] + more + content[place:]


def progressive(width, height, more_scans):
    """A progressive JPEG whose last scan is repeated; each costs a look at every block of the picture."""
    content = picture(width, height, "JPEG", progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * more_scans + content[-2:]


def jpeg2000():
    noise = Image.frombytes("L", (1000, 1000), os.urandom(1_000_000))
    stream = io.BytesIO()
    noise.save(stream, "JPEG2000")
    return stream.getvalue()


def upright():
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif


PNG, JPEG = picture(), picture(format="JPEG")
GIF_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
GIF = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + bytes(6)
COSTLY = {
    "PNG of many chunks": (after(PNG, 33, chunk(b"prVt") * PNG_CHUNKS), "more than 100,000 chunks"),
    "PNG of empty pixel chunks": (after(PNG, 33, chunk(b"IDAT") * PNG_CHUNKS), "more than 100,000 chunks"),
    "JPEG of many segments": (after(JPEG, 2, b"\xff\xef\x00\x02" * 300_000), "more than 10,000 segments"),
    "JPEG of fill bytes": (after(JPEG, 2, b"\xff" * 1_000_000), "more than 10,000 segments"),
    "JPEG of many scans": (progressive(3000, 2000, 200), "more than 166 scans of 6.0 megapixels"),
    "GIF of many frames": (GIF + GIF_FRAME * 600_000 + b";", "more than one frame of 2x2 needs"),
    "GIF of comments": (GIF + b"\x21\xfe\x01a\x00" * 1_700_000 + GIF_FRAME + b";", "more than one frame of 2x2 needs"),
    "PPM as text": (b"P3 1000 700 255\n" + b"1 " * 2_100_000, "numbers as text"),
    "lossy WebP": (
        (lambda webp: webp[:4] + struct.pack("<I", 40_000_000 - 8) + webp[8:] + bytes(40_000_000 - len(webp)))(
            picture(format="WEBP")
        ), "lower quality",
    ),
    "JPEG 2000": (jpeg2000() + bytes(10_000_000), "JPEG 2000, which takes more"),
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


@pytest.mark.parametrize("name", COSTLY)
def test_it_is_refused_by_its_header(name, tmp_path, monkeypatch):
    content, problem = COSTLY[name]
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
    with pytest.raises(SampleError, match="holds several frames or pages"):
        image_size(ImagePart(content=stream.getvalue()), "rows:1")


@pytest.mark.parametrize(
    "content",
    [
        after(JPEG, 2, b"".join(b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(20))),
        after(PNG, 33, chunk(b"prVt", bytes(1000)) * 2000),
        progressive(1200, 800, 5),
        picture(format="PPM"),
        picture(format="WEBP", lossless=True),
        picture(format="WEBP", exif=upright()),
        picture(2, 2, "GIF") + bytes(2_000_000),
    ],
    ids=[
        "JPEG with profiles",
        "PNG of 2000 chunks",
        "progressive JPEG",
        "binary PPM",
        "lossless WebP",
        "WebP with EXIF",
        "GIF with a tail",
    ],
)
def test_large_and_honest_files_are_read(content):
    assert load_image(ImagePart(content=content), "rows:1").mode == "RGB"


def test_progressive_pictures_of_the_largest_size_have_room_for_the_usual_scans():
    assert SCAN_MEGAPIXELS / (images.MAXIMUM_PIXELS / 1e6) >= 20


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
