"""The fast path: the same tiles in the same places as the exact one, and pixels that are close to its."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import build_processor
from PIL import Image, ImageDraw
from processes import run_script

from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.media.fast_images import fast_tiles
from smol_hf.data.media.images import load_image
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.processing.image_tiling import ImageTiler, MiddleSquare, OverviewFirst
from smol_hf.training.recipe.data_arguments import DataArguments

ROOT = Path(__file__).resolve().parents[3]
TILERS = {
    "smolvlm": ImageTiler(64, 256),
    "native": ImageTiler(64, 256, enlarge_images=False),
    "one tile": ImageTiler(64, 64),
    "plain": ImageTiler(64, 64, do_image_splitting=False),
    "nanovlm": OverviewFirst(64, 256),
    "crop": MiddleSquare(64),
}


def page(width, height):
    """Smooth colours with a few strong edges, the corners unlike each other."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((width // 8, height // 8, width // 3, height // 3), fill=(250, 10, 10))
    return image


def encoded(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return ImagePart(content=stream.getvalue())


def psnr(one, other):
    return 10 * np.log10(255**2 / max(np.square(one.astype(float) - other).mean(), 1e-9))


@pytest.mark.parametrize("name", TILERS)
@pytest.mark.parametrize("size", [(40, 30), (64, 64), (300, 200), (200, 300), (1200, 900), (130, 1000), (1100, 70)])
def test_its_tiles_are_those_of_the_exact_path(name, size):
    part, tiler = encoded(page(*size), quality=95), TILERS[name]
    exact, fast = tiler.tiles(load_image(part, "x")), fast_tiles(part, "x", tiler)
    assert fast.shape == exact.shape and fast.dtype == np.uint8 and fast.flags["C_CONTIGUOUS"]
    for one, other in zip(exact, fast):
        assert psnr(one, other) > 20, "a tile in the wrong place or turned would be below 15"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_tag_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    part = encoded(page(600, 400), exif=exif, quality=95)
    exact, fast = TILERS["smolvlm"].tiles(load_image(part, "x")), fast_tiles(part, "x", TILERS["smolvlm"])
    assert exact.shape == fast.shape and psnr(exact, fast) > 30


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_other_kinds_of_pixels(mode):
    image = page(200, 100).convert("L")
    sixteen = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image = sixteen if mode == "I;16" else image.convert(mode, dither=0)
    part = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert psnr(TILERS["smolvlm"].tiles(load_image(part, "x")), fast_tiles(part, "x", TILERS["smolvlm"])) > 30


def test_a_large_jpeg_is_decoded_small():
    part = encoded(page(1600, 1200))
    assert load_image(part, "x", at_least=(64, 64)).size == (200, 150)
    assert load_image(part, "x", at_least=(500, 700)).size == (800, 600)
    assert load_image(part, "x", at_least=(1000, 900)).size == (1600, 1200)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(page(1600, 1200), exif=exif)
    assert load_image(turned, "x", at_least=(700, 500)).size == (600, 800)
    assert load_image(turned, "x", at_least=(500, 700)).size == (1200, 1600)


def test_a_damaged_picture_is_named():
    part = encoded(page(300, 300))
    with pytest.raises(SampleError, match="sample 3: the embedded image is damaged"):
        fast_tiles(ImagePart(content=part.content[:2000]), "sample 3", TILERS["smolvlm"])


def test_the_recipe_chooses():
    asked = Message("user", (encoded(page(300, 200), quality=95), TextPart("What?")))
    conversation = Conversation("a:1", (asked, Message("assistant", (TextPart("A page."),))))
    made = {}
    for path in ("exact", "fast"):
        work = SampleWork(build_processor(), 400, [None], image_resizing=path)
        made[path] = work.encode(0, work.prepare(0, "a:1", conversation))
    assert made["exact"].input_ids.tolist() == made["fast"].input_ids.tolist()
    assert made["exact"].tiles.shape == made["fast"].tiles.shape
    assert not np.array_equal(made["exact"].tiles, made["fast"].tiles)
    with pytest.raises(ValueError, match="image_resizing is 'quick': choose exact or fast"):
        DataArguments(image_resizing="quick")


def test_the_benchmark_ends_with_its_figures():
    printed = run_script(ROOT / "benchmarks" / "data_pipeline.py", "--samples", "4", "--rounds", "1")
    figures = json.loads(printed.splitlines()[-1])
    assert figures["exact_most_difference_normalised"] <= 1e-6
    assert figures["bytes_ratio"] <= 1 / 4 and figures["bytes_ratio_native"] <= 1 / 7
    assert figures["fast_psnr"] > 35
    assert figures["ratio_exact"] > 1.2 and figures["ratio_fast"] > 4, "far below what a quiet machine shows"
