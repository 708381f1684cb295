"""Checkpoints that the tests of several targets export."""

import json
import os
import random

import pytest
from chat_models import save_base
from PIL import Image, ImageDraw
from processes import call
from safetensors.torch import load_file, save_file

from smol_hf.support.cache_folders import making

COLOURS = {
    "red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 60, 220), "yellow": (235, 220, 40), "black": (9, 9, 9),
    "grey": (128, 128, 128), "orange": (245, 140, 20), "purple": (130, 40, 160), "cyan": (60, 210, 220),
    "pink": (250, 150, 190),
}  # fmt: skip
SIDE, QUESTION = 128, "What colour?"
TRAINING = {
    "preset": "tiny-vlm", "longest_edge": SIDE, "context_length": 192, "max_steps": 100, "warmup_steps": 10,
    "per_device_train_batch_size": 8, "learning_rate": 3e-3, "save_strategy": "no", "use_cpu": "true", "seed": 0,
    "dataloader_num_workers": 0,
}  # fmt: skip


def coloured_pages(folder, count, seed):
    """Files of pages in one colour with a white square, and the names of the colours."""
    draw, pages = random.Random(seed), []
    folder.mkdir(parents=True)
    for number in range(count):
        name, side = draw.choice(sorted(COLOURS)), draw.randint(20, 60)
        left, top = draw.randint(0, SIDE - side), draw.randint(0, SIDE - side)
        image = Image.new("RGB", (SIDE, SIDE), COLOURS[name])
        ImageDraw.Draw(image).rectangle((left, top, left + side, top + side), fill="white")
        image.save(folder / f"{number}.png")
        pages.append((f"{folder.name}/{number}.png", name))
    return pages


@pytest.fixture(scope="session")
def tiled_vlm(tmp_path_factory):
    """A model that sees an image as four tiles and an overview, and names ten colours. Trained once for all tests."""
    base = tmp_path_factory.getbasetemp()
    with making(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base, "tiled_vlm") as unfinished:
        if unfinished is not None:
            lines = [
                json.dumps({"images": [path], "messages": [{"role": "user", "content": QUESTION},
                                                           {"role": "assistant", "content": name}]})
                for path, name in coloured_pages(unfinished / "pages", 400, seed=1)
            ]  # fmt: skip
            (unfinished / "pages.jsonl").write_text("\n".join(lines))
            words = [word for key, value in TRAINING.items() for word in (f"--{key}", value)]
            data, output = ("--data", unfinished / "pages.jsonl"), ("--output_dir", unfinished / "run")
            finished = call(["train", *words, *data, *output])
            assert finished.returncode == 0, finished.stderr
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return place / "tiled_vlm" / "run" / "checkpoint"


@pytest.fixture(scope="session")
def colour_prompts(tmp_path_factory):
    """A file of 20 prompts with an image each, which `tiled_vlm` was not trained on."""
    folder = tmp_path_factory.mktemp("colours")
    pages = coloured_pages(folder / "asked", 20, seed=2)
    lines = [json.dumps({"prompt": QUESTION, "image": path}) for path, _ in pages]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder / "prompts.jsonl"


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    """A text-only checkpoint with random weights whose answers differ between prompts."""
    folder = tmp_path_factory.mktemp("models") / "text"
    save_base(folder, "ours")
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "proj" in name:
            weight.mul_(15)  # with small random weights a tied model repeats its last token
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
