"""Models with inputs, for the tests of what transformers expects of every model."""

import pytest
import torch
from modeling.builders import (
    build_decoder,
    build_vlm,
    image_prompt,
    one_row,
    random_text,
    random_tiles,
)

CLOSE = {"rtol": 0, "atol": 1e-5}


def text(**changes):
    return build_decoder(**changes), {"input_ids": one_row(random_text(9))}


def vlm(decoder="rotary", **changes):
    model = build_vlm(decoder=decoder, **changes)
    ids = image_prompt(model.config, images=2) + random_text(3, seed=9)
    return model, {"input_ids": one_row(ids), "pixel_values": random_tiles(2)}


MODELS = [
    pytest.param(text, id="text"),
    *(pytest.param(lambda name=name: vlm(name), id=f"vlm-{name}") for name in ("rotary", "llama")),
]


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits
