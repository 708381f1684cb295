"""Images in a call of the processor: every form in which they may be given, their sizes and their numbers."""

import base64
import io

import numpy as np
import pytest
import torch
from modeling.builders import build_processor, vlm_config
from PIL import Image
from processing.chats import PROMPT, TEXTS, ask, picture

from smol_hf.modeling.tiles import normalize_tiles


def prepared(processor, part, **options):
    return processor.apply_chat_template(ask(part), tokenize=True, return_dict=True, return_tensors="pt", **options)


def test_sizes_and_tiles_are_those_of_the_call(processor):
    plain = build_processor(longest_edge=32)
    for options in ({"size": {"longest_edge": 32}}, {"images_kwargs": {"size": {"longest_edge": 32}}}):
        batch = processor(text=PROMPT, images=picture(), return_tensors="pt", **options)
        expected = plain(text=PROMPT, images=picture(), return_tensors="pt")
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    whole = prepared(processor, {"type": "image", "image": picture()}, do_image_splitting=False)
    assert whole["pixel_values"].shape == (1, 1, 3, 32, 32)
    fewer = processor(text=PROMPT, images=picture(), image_seq_len=1)["input_ids"][0]
    assert fewer.count(processor.image_token_id) == 5
    assert processor(text=PROMPT, images=picture(), return_tensors="pt")["pixel_values"].shape[1] == 5
    assert processor.longest_edge == 64


def test_pixels_are_rescaled_and_normalised_on_demand(processor):
    tiles = processor(images=picture(), return_tensors="pt")["pixel_values"]
    assert tiles.dtype == torch.uint8
    negative = processor(images=picture(), do_rescale=True, rescale_factor=-1, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(negative, -tiles.float())
    half = [0.5] * 3
    ready = processor(images=picture(), do_normalize=True, image_mean=half, image_std=half, return_tensors="pt")
    expected = normalize_tiles(tiles[0], vlm_config(), torch.float32)
    torch.testing.assert_close(ready["pixel_values"][0], expected)


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


SHAPES = {
    "PIL": lambda image: {"type": "image", "image": image},
    "channels last": lambda image: {"type": "image", "image": np.asarray(image)},
    "channels first": lambda image: {"type": "image", "image": np.asarray(image).transpose(2, 0, 1)},
    "tensor": lambda image: {"type": "image", "image": torch.tensor(np.asarray(image)).permute(2, 0, 1)},
    "floats": lambda image: {"type": "image", "image": torch.tensor(np.asarray(image) / 255).permute(2, 0, 1)},
    "base64 key": lambda image: {"type": "image", "base64": encoded(image)},
    "base64": lambda image: {"type": "image", "image": encoded(image)},
    "bytes": lambda image: {"type": "image", "image": base64.b64decode(encoded(image))},
    "data URL": lambda image: {"type": "image", "url": "data:image/png;base64," + encoded(image)},
    "OpenAI": lambda image: {
        "type": "image_url", "image_url": {"url": "data:image/png;base64," + encoded(image), "detail": "low"},
    },
    "OpenAI, short": lambda image: {"type": "image_url", "image_url": "data:image/png;base64," + encoded(image)},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_the_same_in_every_shape(processor, shape):
    expected, given = (prepared(processor, SHAPES[each](picture())) for each in ("PIL", shape))
    for name in expected:
        assert torch.equal(given[name], expected[name]), name


def test_arrays_that_could_be_read_in_two_ways_need_the_layout(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="input_data_format"):
        processor(images=pixels)
    first = processor(images=pixels, input_data_format="channels_first")["pixel_values"]
    expected = processor(images=Image.fromarray(pixels.transpose(1, 2, 0)))["pixel_values"]
    assert torch.equal(first, expected)


def test_images_come_without_text_before_it_and_in_one_array(processor):
    images = [picture(seed=seed) for seed in range(2)]
    alone = processor(images=images, return_tensors="pt")
    assert set(alone) == {"pixel_values", "pixel_attention_mask"}
    assert torch.equal(alone["pixel_values"][0, :5], processor(images=images[0])["pixel_values"][0])
    batch = processor(images=np.stack([np.asarray(image) for image in images]), text=[PROMPT] * 2)
    for call in (
        processor([PROMPT] * 2, images),
        processor(images, [PROMPT] * 2),
        processor(text=[PROMPT] * 2, images=[[image] for image in images]),
    ):
        assert call["input_ids"] == batch["input_ids"] and torch.equal(call["pixel_values"], batch["pixel_values"])
    assert processor(TEXTS)["input_ids"] == processor(text=TEXTS)["input_ids"]
    mixed = processor(text=[PROMPT, "no image"], images=[[images[0]], None])
    assert mixed["pixel_attention_mask"][:, :, 0, 0].sum(1).tolist() == [5, 0]


@pytest.mark.parametrize("text", ["你好世界" * 30, "https-free,text-without-a-space;" * 5, "été" * 50])
def test_a_long_text_without_a_space_is_a_text(processor, text):
    assert processor(text)["input_ids"] == processor(text=text)["input_ids"]
    assert processor([text, text])["input_ids"] == processor(text=[text, text])["input_ids"]
    written = io.BytesIO()
    picture().save(written, "PNG")
    for encode in (base64.b64encode, base64.encodebytes):  # in one line, and in several
        assert set(processor(encode(written.getvalue()).decode())) == {"pixel_values", "pixel_attention_mask"}
