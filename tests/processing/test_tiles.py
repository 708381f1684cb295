"""Tiles and their tokens: those of Idefics3, CLIP and nanoVLM, and the same pixels wherever an image comes from."""

import base64
import math

import numpy as np
import pytest
import torch
from modeling.builders import build_processor, build_tokenizer, vlm_config
from PIL import Image
from processing.chats import IMAGE, TILE, message, picture
from transformers import Idefics3Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from smol_hf import SmolHFProcessor
from smol_hf.data.conversation import ImagePart
from smol_hf.data.media.images import load_image
from smol_hf.modeling.tiles import normalize_tiles
from smol_hf.processing.image_input import as_image
from smol_hf.processing.image_tiling import MiddleSquare
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

# -- the same as Idefics3 ---------------------------------------------------------------------------------------------

SIZES = [
    (1, 1), (32, 32), (31, 33), (64, 64), (65, 64), (64, 96), (100, 100), (48, 128), (128, 48), (33, 97), (200, 150),
    (1, 90), (90, 1), (3, 200), (200, 7), (63, 193),
]  # fmt: skip
SPLITS = [(TILE, True), (2 * TILE, True), (3 * TILE, True), (5 * TILE + 7, True), (2 * TILE, False), (4 * TILE, False)]


def idefics3(longest_edge, split):
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": longest_edge}, max_image_size={"longest_edge": TILE}, do_image_splitting=split
    )
    return Idefics3Processor(image_processor, build_tokenizer(), image_seq_len=4)


@pytest.mark.parametrize("longest_edge, split", SPLITS)
def test_tokens_and_pixels_equal_those_of_idefics3(longest_edge, split):
    native = idefics3(longest_edge, split)
    ours = build_processor(longest_edge=longest_edge, do_image_splitting=split)
    for number, (height, width) in enumerate(SIZES):
        prompt = "<|im_start|>User:<image>What is it?<end_of_utterance>\nAssistant:"
        image = picture(height, width, seed=number)
        expected = native(text=prompt, images=[image], return_tensors="pt")
        actual = ours(text=prompt, images=[image], return_tensors="pt")
        assert actual["input_ids"].tolist() == expected["input_ids"].tolist(), (height, width)
        assert actual["pixel_values"].dtype == torch.uint8
        pixels = normalize_tiles(actual["pixel_values"][0], vlm_config(), torch.float32)
        expected_pixels = torch.as_tensor(np.asarray(expected["pixel_values"]))[0]
        assert pixels.shape == expected_pixels.shape, (height, width)
        assert (pixels - expected_pixels).abs().max() < 1e-6, (height, width)


def test_a_batch_with_several_images_equals_that_of_idefics3():
    native, ours = idefics3(2 * TILE, True), build_processor()
    prompts = ["<image>and<image>differ?", "One picture:<image>."]
    images = [[picture(64, 20), picture(32, 32, seed=1)], [picture(50, 60, seed=2)]]
    native.tokenizer.padding_side = ours.tokenizer.padding_side = "left"
    expected = native(text=prompts, images=images, padding=True, return_tensors="pt")
    actual = ours(text=prompts, images=images, return_tensors="pt")
    assert torch.equal(actual["input_ids"], expected["input_ids"])
    assert torch.equal(actual["attention_mask"], expected["attention_mask"])
    mask, expected_mask = actual["pixel_attention_mask"], expected["pixel_attention_mask"].bool()
    assert mask.shape == expected_mask.shape and torch.equal(mask[:, :, 0, 0], expected_mask[:, :, 0, 0])
    pixels = normalize_tiles(actual["pixel_values"].flatten(0, 1), vlm_config(), torch.float32)
    real = mask[:, :, 0, 0].flatten()
    torch.testing.assert_close(pixels[real], expected["pixel_values"].flatten(0, 1)[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_other_colour_modes_become_rgb(processor, mode):
    tiles = processor.tiles([picture(32, 32, mode)])
    assert tiles.shape == (5, 3, TILE, TILE) and tiles.dtype == np.uint8


def test_what_is_transparent_shows_a_white_page(processor):
    tiles = processor.tiles([Image.new("RGBA", (32, 32), (0, 0, 0, 0))])
    assert (tiles == 255).all()


# -- the same pixels wherever an image comes from ---------------------------------------------------------------------


def unusual_pictures():
    red_and_blue = np.zeros((20, 40, 3), np.uint8)
    red_and_blue[:, :20], red_and_blue[:, 20:] = (220, 30, 30), (30, 30, 220)
    exif = Image.Exif()
    exif[0x0112] = 6
    ink = np.zeros((20, 40, 4), np.uint8)
    ink[5:9, 5:9, 3] = 255
    return {
        "turned.jpg": (Image.fromarray(red_and_blue), {"exif": exif}),
        "transparent.png": (Image.fromarray(ink), {}),
        "grey16.png": (Image.fromarray(red_and_blue[..., 0].astype(np.uint16) * 257), {}),
    }


@pytest.mark.parametrize("name", unusual_pictures())
def test_inference_sees_the_pixels_of_training(name, processor, tmp_path):
    image, options = unusual_pictures()[name]
    path = tmp_path / name
    image.save(path, **options)
    expected = processor.tiles([load_image(ImagePart(path=str(path)), "here")])
    address = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    for shown in (str(path), path, Image.open(path), address):
        part = {"type": "image", "image": shown}
        batch = processor.apply_chat_template(
            [message("user", part, "What?")], tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert np.array_equal(batch["pixel_values"][0].numpy(), expected), type(shown)


def test_arrays_have_the_white_of_their_type(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = as_image(pixels)
    assert np.array_equal(np.asarray(expected), pixels)
    for same in (pixels / 255, pixels.astype(np.uint16) * 257, torch.from_numpy(pixels)):
        assert np.array_equal(np.asarray(as_image(same)), pixels)
    halves = torch.from_numpy(pixels).bfloat16() / 256
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert np.array_equal(np.asarray(as_image(halves.to(dtype))), np.asarray(as_image(halves.double().numpy())))
    assert as_image(pixels[..., 0]).mode == as_image(pixels[..., :1]).mode == "RGB"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.full((9, 9), 7.5), "no known white"), (np.full((9, 9), np.nan), "no known white"),
        (np.zeros((9, 9), np.int64), "array of int64"), (np.zeros((0, 9, 3), np.uint8), "is not an image"),
        (np.zeros((2, 9, 9), np.uint8), "is not an image"), (np.zeros(9, np.uint8), "is not an image"),
        (np.zeros((3, 9, 4), np.uint8), "set input_data_format"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_pictures_are_refused(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        as_image(value)


def test_an_animation_and_a_part_of_another_type_are_refused(processor, tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="has 2 frames"):
        as_image(tmp_path / "two.gif")
    with pytest.raises(ValueError, match="type 'audio': use text, image or video"):
        processor.apply_chat_template([message("user", {"type": "audio", "path": "x.mp3"})], tokenize=True)


# -- other families' pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (100, 40), (40, 100), (33, 97), (64, 5), (7, 7), (1, 3)])
def test_the_middle_square_is_what_clip_sees(size):
    clip = CLIPImageProcessorPil(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    image = picture(*size)
    expected = torch.as_tensor(np.asarray(clip(image, return_tensors="pt")["pixel_values"]))
    tiles = torch.from_numpy(MiddleSquare(TILE).tiles(image))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (clip.image_mean, clip.image_std))
    torch.testing.assert_close((tiles / 255 - mean) / std, expected, rtol=0, atol=1e-5)


def test_a_line_of_pixels_does_not_fill_the_memory():
    assert MiddleSquare(336).tiles(picture(1, 60000)).shape == (1, 3, 336, 336)


def nanovlm_tiles(image, side, longest, enlarge):
    """nanoVLM's transforms, written out: resize to multiples of the side, cut, and a small copy first."""
    width, height = image.size
    long, short = max(width, height), min(width, height)
    target = longest if enlarge else min(longest, math.ceil(long / side) * side)
    other = max(math.ceil(short * (target / long) / side) * side, side)
    new_width, new_height = (target, other) if width >= height else (other, target)
    pixels = torch.from_numpy(np.asarray(image.resize((new_width, new_height), Image.Resampling.BICUBIC)).copy())
    pixels = pixels.permute(2, 0, 1)[None].float()
    rows, columns = new_height // side, new_width // side
    cut = pixels.view(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
    if len(cut) == 1:
        return cut, (1, 1)
    overview = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return torch.cat([overview, cut]), (rows, columns)


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_and_tokens_of_nanovlm(size, enlarge):
    image = picture(*size)
    expected, (rows, columns) = nanovlm_tiles(image, TILE, 3 * TILE, enlarge)
    processor = nanovlm_processor(enlarge_images=enlarge)
    tiles = torch.from_numpy(processor.tiles([image])).float()
    assert tiles.shape == expected.shape
    assert (tiles - expected).abs().max() <= 1  # Pillow rounds to bytes
    block = "<|global_image|>" + "<|image|>" * 4
    if (rows, columns) != (1, 1):
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                block += f"<row_{row}_col_{column}>" + "<|image|>" * 4
    assert processor.tokenizer.decode(processor.image_block_ids(*size)) == block


def nanovlm_processor(**options):
    tokenizer = build_tiny_tokenizer(["a picture"])
    tokenizer.add_tokens(["<|image|>", "<|global_image|>"], special_tokens=True)
    return SmolHFProcessor(
        tokenizer, tile_size=TILE, image_seq_len=4, longest_edge=3 * TILE, image_token="<|image|>",
        image_style="nanovlm", chat_template="{% for m in messages %}{% for p in m.content %}"
        "{{ '<|image|>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}", **options,
    )  # fmt: skip


def test_several_pictures_of_nanovlm_are_numbered():
    processor = nanovlm_processor(enlarge_images=False)
    images = [picture(20, 20), picture(30, 30)]
    encoded = processor.encode([message("user", IMAGE, IMAGE, "Which?")], images)
    one = "<|global_image|>" + "<|image|>" * 4
    assert processor.tokenizer.decode(encoded.input_ids) == f"<image: 0>{one}<image: 1>{one}Which?"
    assert encoded.tiles.shape == (2, 3, TILE, TILE)


def test_a_small_picture_becomes_no_more_tiles_than_its_pixels_fill():
    enlarging, sparing = (build_processor(longest_edge=4 * TILE, enlarge_images=value) for value in (True, False))
    assert enlarging.tiles([picture(1, 1)]).shape[0] == 17
    assert sparing.tiles([picture(1, 1)]).shape[0] == 1
    assert sparing.tiles([picture(50, 60)]).shape[0] == 2 * 2 + 1
    large = picture(200, 300)
    assert np.array_equal(sparing.tiles([large]), enlarging.tiles([large]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_style": "mosaic"}, "choose one of smolvlm, nanovlm, crop, plain"),
        ({"image_style": "crop"}, "have no tokens for tiles"),
        ({"image_token": "<|im_start|>"}, "choose another"),
        ({"image_style": "nanovlm"}, "lacks 1 tokens"),
    ],
)
def test_styles_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_processor(**options)
