"""Tiny checkpoints for the Space: one that sees pictures and knows an answer by heart."""

import torch
from helpers import build_model, build_processor, memorise
from PIL import Image

from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.support.resources import resource_path

APP = resource_path("hub_templates", "space")
MODULES = sorted(path.stem for path in APP.glob("*.py"))
QUESTION = "What is this?"
ANSWER = "This is a page of red paper. Nobody wrote on it, so there is nothing to read here but the colour of the sea."


def red_page():
    return Image.new("RGB", (32, 32), "red")


def turn(question=QUESTION, *images):
    return {"role": "user", "content": [*({"type": "image", "image": each} for each in images), text(question)]}


def text(words):
    return {"type": "text", "text": words}


def save_picture_checkpoint(folder, steps=100):
    """A model that answers `QUESTION` about a red page with `ANSWER`."""
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    model.config.text_config.max_position_embeddings = 256
    messages = [turn(QUESTION, red_page()), {"role": "assistant", "content": [text(ANSWER)]}]
    sample = processor.encode(messages, [red_page()])
    batch = {
        "input_ids": torch.tensor([sample.input_ids]),
        "labels": torch.tensor([sample.labels]),
        "pixel_values": torch.from_numpy(sample.tiles),
    }
    memorise(model, steps, **batch)
    publish_checkpoint(folder, model, processor, license="mit")
    return folder
