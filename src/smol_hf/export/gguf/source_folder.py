"""The folder that llama.cpp's converter reads: the native one, with a chat template for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from smol_hf.conversion.checkpoint_files import read_json

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# llama.cpp's names of the ways to split a text before BPE.
PRE_TOKENIZERS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    "gpt-2": [BYTE_LEVEL],
}
# llama.cpp's server replaces images by texts such as `<__media__>` before it renders the template.
FIRST_IS_IMAGE = "message['content'][0]['type'] == 'image'"
FIRST_IS_MEDIA = f"({FIRST_IS_IMAGE} or message['content'][0]['text'][:8] == '<__media')"


def pre_tokenizer_name(native: Path) -> str | None:
    """Return llama.cpp's name of the way in which tokenizer.json splits a text.

    None: no way of this module is the same. llama.cpp's converter may still recognise a published tokenizer.
    """
    tokenizer = read_json(native / "tokenizer.json")
    if tokenizer.get("normalizer") is not None or tokenizer["model"].get("ignore_merges"):
        return None
    found = tokenizer["pre_tokenizer"]
    steps = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    without_offsets = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    return next((name for name, expected in PRE_TOKENIZERS.items() if without_offsets == expected), None)


@contextmanager
def source_folder(native: Path) -> Iterator[Path]:
    """Yield a folder of links to the native one, whose chat template gives the same prompts in llama.cpp."""
    with TemporaryDirectory(prefix="smol_hf_gguf_") as place:
        folder = Path(place)
        for path in native.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        if (path := folder / "chat_template.jinja").is_file():
            replace_link(path, gguf_template(path.read_text(encoding="utf-8")))
        settings = read_json(folder / "tokenizer_config.json")
        if isinstance(settings.get("chat_template"), str):
            settings["chat_template"] = gguf_template(settings["chat_template"])
            replace_link(folder / "tokenizer_config.json", json.dumps(settings))
        config = read_json(folder / "config.json")
        if "n_positions" in config:  # the converter reads GPT-2's older name
            replace_link(folder / "config.json", json.dumps({**config, "n_ctx": config["n_positions"]}))
        yield folder


def gguf_template(template: str) -> str:
    """Return the chat template for llama.cpp, where the first part of a message with an image is a text."""
    return template.replace(FIRST_IS_IMAGE, FIRST_IS_MEDIA)


def replace_link(link: Path, text: str) -> None:
    link.unlink()
    link.write_text(text, encoding="utf-8")
