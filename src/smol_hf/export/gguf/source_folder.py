"""The folder that llama.cpp's converter reads: the native one, with a chat template for llama.cpp."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from smol_hf.auto import AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.gguf.refusals import OTHER_TARGETS

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# llama.cpp's names of the ways to split a text before BPE.
PRE_TOKENIZERS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    "gpt-2": [BYTE_LEVEL],
}
# llama.cpp's server replaces images by texts such as `<__media__>` before it renders the template.
MEDIA = "[:8] {} '<__media'"
FIRST_PART = re.compile(r"(\w+(?:\['content'\])?\[0\])\['type'\] (==|!=) 'image'")
TEXT_PART = re.compile(r"\{% if (\w+)\['type'\] == 'text' %\}(\{\{ ?\1\['text'\] ?\}\})")
IMAGE_WORDS = re.compile(r"(?:'|%\})([^'{}%]*)<image>([^'{}%]*)(?:'|\{%)")


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
    with TemporaryDirectory(prefix="smol_hf_gguf_", dir=native.parent) as place:
        folder = Path(place)
        for path in native.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        if (path := folder / "chat_template.jinja").is_file():
            replace_link(path, gguf_template(path.read_text(encoding="utf-8")))
        settings = read_json(folder / "tokenizer_config.json") | added_tokens(native)
        if isinstance(template := settings.get("chat_template"), str):
            settings["chat_template"] = gguf_template(template)
        replace_link(folder / "tokenizer_config.json", json.dumps(settings))
        config = read_json(folder / "config.json")
        if "n_positions" in config:  # the converter reads GPT-2's older name
            replace_link(folder / "config.json", json.dumps({**config, "n_ctx": config["n_positions"]}))
        yield folder


def added_tokens(native: Path) -> dict[str, bool]:
    """Return the converter's settings for tokens around a text. A chat template writes all tokens of a prompt itself.

    Raises:
        ConversionError: if the tokenizer adds others than its start token and its end token.
    """
    tokenizer = AutoTokenizer.from_pretrained(native)
    if tokenizer.chat_template is not None:
        return {"add_bos_token": False, "add_eos_token": False}
    alone, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    for starts in (False, True):
        for ends in (False, True):
            if whole == [tokenizer.bos_token_id] * starts + alone + [tokenizer.eos_token_id] * ends:
                return {"add_bos_token": starts, "add_eos_token": ends}
    raise ConversionError(
        "tokenizer.json adds tokens to a text that are not its start token and end token, which llama.cpp does not "
        f"know; {OTHER_TARGETS}"
    )


def gguf_template(template: str) -> str:
    """Return the chat template for llama.cpp, where an image is a text.

    Conditions about the first part of a message, and words around an image, then apply to such texts too.

    Raises:
        ConversionError: if the template writes words around an image in another form than those of smol_hf.
    """
    template = FIRST_PART.sub(first_is_media, template)
    words = IMAGE_WORDS.search(template)
    if words is None or not any(words.groups()):
        return template
    before, after = words.groups()
    written, changes = TEXT_PART.subn(
        lambda found: (
            f"{{% if {found[1]}['type'] == 'text' and {found[1]}['text']{MEDIA.format('==')} %}}"
            f"{before}{found[2]}{after}{{% elif {found[1]}['type'] == 'text' %}}{found[2]}"
        ),
        template,
    )
    if not changes:
        raise ConversionError(
            "the chat template writes words around an image, and texts in an unknown form: choose --to native, or "
            "train with the template of smol_hf"
        )
    return written


def first_is_media(found: re.Match) -> str:
    part, operator = found.groups()
    both = "or" if operator == "==" else "and"
    return f"({found[0]} {both} {part}['text']{MEDIA.format(operator)})"


def replace_link(link: Path, text: str) -> None:
    link.unlink()
    link.write_text(text, encoding="utf-8")
