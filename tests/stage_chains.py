"""A chain of three stages on tiny models: its recipes and commands."""

import json
from pathlib import Path

import yaml
from processes import call
from tiny_runs import RECIPE

STEPS = 6
NEW = ("vision_config", "text_config")
# Text, then images with a frozen encoder that is unfrozen, then images at another rate.
CHAIN = {
    "text": {"data": "chats.jsonl", "learning_rate": 3e-3},
    "image": {"unfreeze_vision_at_step": 3, "vision_warmup_steps": 2, "vision_learning_rate": 5e-3},
    "last": {"learning_rate": 1e-3, "num_pages": 20},
}
TWO = ["train", "--stages", "text.yaml", "image.yaml"]
STAGES = ["train", "--stages", *(f"{name}.yaml" for name in CHAIN)]


def write_recipes(folder, runs="runs"):
    chat = [{"role": "user", "content": "What is one plus one?"}, {"role": "assistant", "content": "Two."}]
    (folder / "chats.jsonl").write_text(f"{json.dumps({'messages': chat})}\n" * 20)
    for name, keys in CHAIN.items():
        recipe = {**RECIPE, "max_steps": STEPS, "save_steps": 2, "output_dir": f"{runs}/{name}", **keys}
        for key in NEW if name != "text" else ():
            del recipe[key]
        if "data" in keys:
            del recipe["num_pages"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))


def refusal(words):
    result = call(words)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


def replace_text(path, old, new):
    path = Path(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
