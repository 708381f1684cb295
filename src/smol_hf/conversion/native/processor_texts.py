"""Pixels, chat template and tokenizer of a native folder, as transformers 4 and 5 and other engines read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig

MARKS = ("{% generation %}", "{% endgeneration %}")


def native_template(source: Path, *, marked: bool = False) -> str:
    """Read the chat template of our checkpoint.

    Args:
        marked: keep the marks of generated text, which other engines do not support.
    """
    path = source / "chat_template.jinja"
    template = read_json(source / "processor_config.json").get("chat_template")
    if not template:
        template = path.read_text(encoding="utf-8") if path.is_file() else ""
    for mark in () if marked else MARKS:
        template = template.replace(mark, "")
    return template


def write_texts(folder: Path, template: str, processor_class: str, special_tokens: dict[str, str]) -> None:
    """Write the template, and complete the tokenizer's configuration in `folder`.

    Args:
        special_tokens: {attribute of the tokenizer: token}.
    """
    tokenizer = read_json(folder / "tokenizer_config.json") | special_tokens
    tokenizer |= {
        "extra_special_tokens": special_tokens,  # transformers 4.57 reads no list
        "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": processor_class,
        "add_bos_token": False,
    }
    tokenizer.pop("auto_map", None)  # of our processor, whose code is not in the folder
    write_json(folder / "tokenizer_config.json", tokenizer)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def pixel_settings(config: SmolHFConfig) -> dict[str, Any]:
    """Return the keys of an image processor about colours and the range of pixels."""
    return {
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
        "do_resize": True,
    }
