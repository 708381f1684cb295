"""Checkpoints that are exported."""

import json

import pytest
from chat_models import save_base
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import train_words

from smol_hf.commands.main import main

SIDE = 64  # pixels of an image: 2 × 2 tiles and an overview
STEPS = 100
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40),
    "black": (10, 10, 10), "white": (245, 245, 245),
}  # fmt: skip
QUESTION = "Which colours are on the left and on the right?"
ASKED = 20


def two_colours(number):
    """An image of two halves, and the answer: each pair of colours in turn."""
    left, right = (list(COLOURS)[index] for index in divmod(number % len(COLOURS) ** 2, len(COLOURS)))
    image = Image.new("RGB", (SIDE, SIDE), COLOURS[left])
    image.paste(COLOURS[right], (SIDE // 2, 0, SIDE, SIDE))
    return image, f"{left} and {right}"


@pytest.fixture(scope="session")
def tiled_run(tmp_path_factory):
    """The folder of a run: `output/checkpoint` of a model that cuts images into tiles, and `prompts.jsonl`.

    It learns the two colours of an image, so its answers differ between images.
    """
    folder = tmp_path_factory.mktemp("tiled")
    rows = []
    for number in range(len(COLOURS) ** 2):
        image, answer = two_colours(number)
        image.save(folder / f"{number}.png")
        talk = [{"from": "human", "value": f"<image>{QUESTION}"}, {"from": "gpt", "value": answer}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"prompt": QUESTION, "image": f"{number}.png"} for number in range(0, ASKED)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    words = train_words(
        folder / "output", vision_config=VISION, text_config=TEXT, data=str(folder / "rows.jsonl"), longest_edge=SIDE,
        per_device_train_batch_size=12, max_steps=STEPS, learning_rate=3e-3, logging_steps=20,
        save_steps=STEPS, warmup_steps=10,
    )  # fmt: skip
    place = words.index("--num_pages")
    assert main([*words[:place], *words[place + 2 :]]) == 0
    return folder


@pytest.fixture(scope="session")
def tiled_vlm(tiled_run):
    """The checkpoint of `tiled_run`."""
    return tiled_run / "output/checkpoint"


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
