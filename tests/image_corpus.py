"""Pictures as the web and old disks hold them: what must be refused by name, and what must be read right.

All that can be read show the same: the left half red, the right half blue (or their greys).
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RED, BLUE = (220, 30, 30), (30, 30, 220)


def half_and_half(width=60, height=40):
    """Left half red, right half blue: what is turned, mirrored or miscoloured shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth=8, color=2, data=None, before=b"", after=b""):
    """A PNG written by hand; by default it has as many zero bytes as its header promises."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    if data is None:
        data = zlib.compress(bytes(((width * depth * channels + 7) // 8 + 1) * height), 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return SIGNATURE + header + before + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def in_two_chunks(image):
    rows = b"".join(b"\0" + bytes(row) for row in np.asarray(image))
    data = zlib.compress(rows)
    return raw_png(*image.size, data=data[:20], after=chunk(b"IDAT", data[20:]))


def sixteen_bit_rgb(image):
    pixels = (np.asarray(image).astype(">u2") * 257).tobytes()
    width, height = image.size
    rows = b"".join(b"\0" + pixels[row * width * 6 : (row + 1) * width * 6] for row in range(height))
    return raw_png(width, height, 16, 2, zlib.compress(rows))


def sixteen_bit(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def turned_by_exif(orientation, before, kind="JPEG"):
    """The picture stored so that viewers see it upright when they follow the tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(before(half_and_half()), kind, quality=95, exif=exif)


def with_a_flipped_byte(content, place):
    flipped = bytearray(content)
    flipped[place] ^= 0xFF
    return bytes(flipped)


def several(kind, **options):
    more = [Image.new("RGB", (60, 40), color) for color in ("white", "green")]
    return encoded(half_and_half(), kind, save_all=True, append_images=more, **options)


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8))


def greys(values, dtype):
    return Image.fromarray(np.full((9, 9), values, dtype))


JPEG, PNG = encoded(noise(), "JPEG", quality=95), encoded(noise(), "PNG")
WEBP, GIF, TIFF, BMP = (encoded(noise(), kind) for kind in ("WEBP", "GIF", "TIFF", "BMP"))
PICTURE = half_and_half()
T = Image.Transpose

# Name → (content, what the message says).
BAD_IMAGES = {
    "missing": (None, "does not exist"),
    "empty": (b"", "not an image"),
    "one byte": (b"\xff", "not an image"),
    "random bytes": (np.random.default_rng(1).bytes(2000), "not an image"),
    "zeros": (bytes(5000), "not an image"),
    "text named .png": (b"<html>404 Not Found</html>", "not an image"),
    "JSON": (b'{"error": "not found"}', "not an image"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not an image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>', "not an image"),
    "PDF": (b"%PDF-1.4\n%\xe2\xe3\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF", "not an image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF", "not an image"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "not an image"),
    "MP4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200), "not an image"),
    "ZIP": (b"PK\3\4" + bytes(100), "not an image"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "damaged"),
    "JPEG cut in its last bytes": (JPEG[:-40], "damaged"),
    "JPEG of a header alone": (JPEG[:300], ""),
    "half a PNG": (PNG[:9000], "damaged"),
    "PNG with a flipped byte": (with_a_flipped_byte(PNG, len(PNG) // 2), "damaged"),
    "PNG with a wrong checksum": (with_a_flipped_byte(encoded(PICTURE, "PNG"), -14), "damaged"),
    "PNG of a header alone": (PNG[:33], ""),
    "PNG without pixels": (raw_png(60, 40, data=b""), "damaged"),
    "PNG with too few pixels": (raw_png(60, 40, data=zlib.compress(bytes(100))), "damaged"),
    "PNG with a broken EXIF tag": (encoded(noise(), "PNG", exif=b"Exif\0\0garbage"), "cannot be read"),
    "PNG of no width": (raw_png(0, 10, data=zlib.compress(bytes(10))), ""),
    "PNG that lies about its size": (raw_png(60_000, 60_000, data=zlib.compress(bytes(1000))), "too many pixels"),
    "half a WebP": (WEBP[: len(WEBP) // 2], ""),
    "half a GIF": (GIF[: len(GIF) // 2], ""),
    "half a TIFF": (TIFF[: len(TIFF) // 2], ""),
    "half a BMP": (BMP[: len(BMP) // 2], "damaged"),
    "TIFF without its dimensions": (TIFF.replace(b"\x00\x01\x04\x00", b"\x99\x99\x04\x00"), ""),
    "float TIFF with NaN": (encoded(greys(np.nan, np.float32), "TIFF"), "no known white"),
    "float TIFF with infinity": (encoded(greys(np.inf, np.float32), "TIFF"), "no known white"),
    "float TIFF beyond [0, 1]": (encoded(greys(7.5, np.float32), "TIFF"), "no known white"),
    "float TIFF below 0": (encoded(greys(-0.5, np.float32), "TIFF"), "no known white"),
    "32-bit TIFF beyond 16 bits": (encoded(greys(100_000, np.int32), "TIFF"), "no known white"),
    "32-bit TIFF below 0": (encoded(greys(-5, np.int32), "TIFF"), "no known white"),
    "1×1": (encoded(half_and_half(2, 2).resize((1, 1)), "PNG"), "1x1"),
    "one pixel high": (encoded(half_and_half(60, 1), "PNG"), "60x1"),
    "one pixel wide": (encoded(Image.new("RGB", (1, 60)), "JPEG"), "1x60"),
    "12000×12000": (raw_png(12_000, 12_000, 1, 0), "12000x12000, 144 megapixels; the limit is 50"),
    "60000×60": (raw_png(60_000, 60, 1, 0), "more than 200:1"),
    "20×5000": (encoded(Image.new("RGB", (20, 5000)), "PNG"), "more than 200:1"),
    "animated GIF": (several("GIF"), "several frames"),
    "animated WebP": (several("WEBP"), "several frames"),
    "animated PNG": (several("PNG"), "several frames"),
    "TIFF of several pages": (several("TIFF"), "frames or pages"),
}  # fmt: skip

GREY = np.asarray(PICTURE.convert("L").convert("RGB")).astype(int)
COLOURS = np.asarray(PICTURE).astype(int)
BLACK_AND_WHITE = np.where(np.arange(60)[None, :, None] < 30, 0, 255).repeat(40, 0).repeat(3, 2).astype(np.uint8)

# Name → (content, the pixels that it shows).
READABLE = {
    "JPEG": (encoded(PICTURE, "JPEG", quality=95), COLOURS),
    "progressive JPEG": (encoded(PICTURE, "JPEG", quality=95, progressive=True), COLOURS),
    "JPEG without subsampling": (encoded(PICTURE, "JPEG", quality=95, subsampling=0), COLOURS),
    "grey JPEG": (encoded(PICTURE.convert("L"), "JPEG", quality=95), GREY),
    "CMYK JPEG": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), COLOURS),
    "JPEG with bytes after it": (encoded(PICTURE, "JPEG", quality=95) + bytes(500), COLOURS),
    "JPEG 2000": (encoded(PICTURE, "JPEG2000"), COLOURS),
    "PNG": (encoded(PICTURE, "PNG"), COLOURS),
    "grey PNG": (encoded(PICTURE.convert("L"), "PNG"), GREY),
    "16-bit grey": (encoded(sixteen_bit(PICTURE), "PNG"), GREY),
    "16-bit colours": (sixteen_bit_rgb(PICTURE), COLOURS),
    "palette": (encoded(PICTURE.convert("P"), "PNG"), COLOURS),
    "adaptive palette": (encoded(PICTURE.quantize(4), "PNG"), COLOURS),
    "opaque with alpha": (encoded(PICTURE.convert("RGBA"), "PNG"), COLOURS),
    "grey with alpha": (encoded(PICTURE.convert("LA"), "PNG"), GREY),
    "one bit": (encoded(Image.fromarray(BLACK_AND_WHITE[..., 0]).convert("1"), "PNG"), BLACK_AND_WHITE),
    "PNG with a text": (encoded(PICTURE, "PNG", pnginfo=PngImagePlugin.PngInfo()), COLOURS),
    "PNG in two chunks": (in_two_chunks(PICTURE), COLOURS),
    "WebP": (encoded(PICTURE, "WEBP", quality=95), COLOURS),
    "WebP without loss": (encoded(PICTURE, "WEBP", lossless=True), COLOURS),
    "GIF of one frame": (encoded(PICTURE, "GIF"), COLOURS),
    "BMP": (encoded(PICTURE, "BMP"), COLOURS),
    "TIFF": (encoded(PICTURE, "TIFF"), COLOURS),
    "TIFF, LZW": (encoded(PICTURE, "TIFF", compression="tiff_lzw"), COLOURS),
    "float TIFF": (encoded(Image.fromarray((GREY[..., 0] / 255).astype(np.float32)), "TIFF"), GREY),
    "PPM": (encoded(PICTURE, "PPM"), COLOURS),
    "as it was": (turned_by_exif(1, lambda image: image), COLOURS),
    "mirrored by EXIF": (turned_by_exif(2, lambda image: image.transpose(T.FLIP_LEFT_RIGHT)), COLOURS),
    "upside down by EXIF": (turned_by_exif(3, lambda image: image.transpose(T.ROTATE_180)), COLOURS),
    "turned by EXIF": (turned_by_exif(6, lambda image: image.transpose(T.ROTATE_90)), COLOURS),
    "turned the other way by EXIF": (turned_by_exif(8, lambda image: image.transpose(T.ROTATE_270)), COLOURS),
    "PNG turned by EXIF": (turned_by_exif(6, lambda image: image.transpose(T.ROTATE_90), "PNG"), COLOURS),
    "WebP turned by EXIF": (turned_by_exif(3, lambda image: image.transpose(T.ROTATE_180), "WEBP"), COLOURS),
}  # fmt: skip
