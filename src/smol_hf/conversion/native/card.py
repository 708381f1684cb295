"""The card of a native folder and of what is made of it, and the texts that go with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
HEADING = "## Load this folder"
NEEDS = {"smolvlm": "Its processor needs two more packages: `pip install num2words torchvision`.\n\n"}
VISION_PROGRAM = """from transformers import pipeline

pipe = pipeline("image-text-to-text", "PATH")
content = [{"type": "image", "path": "image.png"}, {"type": "text", "text": "What is this?"}]
print(pipe(text=[{"role": "user", "content": content}], return_full_text=False)[0]["generated_text"])"""
TEXT_PROGRAM = """from transformers import pipeline

print(pipeline("text-generation", "PATH")("Once upon a time")[0]["generated_text"])"""


def write_card(source: Path, folder: Path, native: dict) -> None:
    """Write README.md and copy the licence of `source`.

    Args:
        source: our checkpoint; its card, if it has one, comes first.
        native: config.json of `folder`.
    """
    for name in LICENSES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    sees_images = "vision_config" in native
    if (source / "README.md").is_file():
        text = (source / "README.md").read_text(encoding="utf-8").rstrip()
        text = text.replace("\n- custom_code\n", "\n", 1)  # a tag: the folder has no code
        text = re.sub(r"\n## Use\n.*?(?=\n## |\Z)", "", text, count=1, flags=re.DOTALL)  # it loads our code
    else:
        task = "image-text-to-text" if sees_images else "text-generation"
        title = f"# A {'vision-language' if sees_images else 'language'} model"
        text = f"---\nlibrary_name: transformers\npipeline_tag: {task}\n---\n\n{title}\n\nTrained with smol_hf."
    (folder / "README.md").write_text(f"{text}\n\n{loading(native, sees_images)}", encoding="utf-8")


def card_of_export(native_card: str, engine: str, commands: Sequence[str]) -> str:
    """Return the card of a native folder with the commands that run an export of it, instead of its loading."""
    text = native_card.partition(f"\n{HEADING}\n")[0].replace("\nlibrary_name: transformers\n", "\n", 1)
    lines = "\n".join(commands)
    return f"{text}\n## Run this folder\n\nIt has the format of {engine}.\n\n```\n{lines}\n```\n"


def loading(native: dict, sees_images: bool) -> str:
    """Describe how to load a folder with this config.json."""
    program = VISION_PROGRAM if sees_images else TEXT_PROGRAM
    name = native["architectures"][0]
    return (
        f"{HEADING}\n\nIt has the format of transformers' `{name}`, so it loads without `trust_remote_code`.\n\n"
        f"{NEEDS.get(native['model_type'], '')}```python\n{program}\n```\n"
    )
