"""Messages, images and other inputs for the tests of the processor."""

import numpy as np
from PIL import Image

from smol_hf.modeling.label_loss import IGNORE_INDEX

TILE = 32
PROMPT = "User:<image>What is it?"
TEXTS = ["What?", "What is in the picture, please?"]
IMAGE = {"type": "image"}


def picture(height=40, width=64, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode) if mode == "LA" else Image.fromarray(values)


def text(value):
    return {"type": "text", "text": value}


def message(role, *parts):
    return {"role": role, "content": [part if isinstance(part, dict) else text(part) for part in parts]}


def ask(part, *more):
    return [{"role": "user", "content": [part, text("What is it?")]}, *more]


def labelled_texts(processor, sample):
    """The runs of labelled tokens, decoded."""
    runs, run = [], []
    for token, label in zip([*sample.input_ids, 0], [*sample.labels, IGNORE_INDEX]):
        if label != IGNORE_INDEX:
            assert label == token
            run.append(token)
        elif run:
            runs.append(processor.tokenizer.decode(run))
            run = []
    return runs
