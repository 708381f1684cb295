"""Prompts as people write them: a text on the command line, the lines of a file, pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.media.images import load_image
from smol_hf.support.tokenizer_of import is_language_model

JSON_LINES = (".jsonl", ".ndjson")
RESULT_KEYS = ("text", "tokens", "tokens_per_second", "finish_reason")


@dataclass(frozen=True)
class Prompt:
    """Args:
    text: nothing in it is ever read as a special token.
    images: paths of pictures, shown before the text.
    where: what errors call it: file and line.
    keys: of its line in the file; they come back with the answer.
    """

    text: str
    images: tuple[str, ...] = ()
    where: str = "the prompt"
    keys: dict = field(default_factory=dict)


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file. Lines that hold nothing but spaces are none.

    Of a `.jsonl` file each line is an object: `prompt`, `image` (a path) or `images` (a list of them), which start
    from the file's folder, and keys of one's own. Of any other file each line is a prompt.

    Raises:
        FileNotFoundError: when there is no such file.
        SampleError: with the line, for what is not UTF-8 or no prompt; for a file without one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with prompts")
    read_line = read_object if path.suffix in JSON_LINES else read_text
    prompts = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise SampleError(where, f"not valid UTF-8 at byte {error.start} of the line: save it as UTF-8") from error
        if text.strip():
            prompts.append(read_line(text, where, path.parent))
    if not prompts:
        raise SampleError(str(path), "holds no prompt: write one in each line")
    return prompts


def read_text(line: str, where: str, folder: Path) -> Prompt:
    return Prompt(line, where=where, keys={"prompt": line})


def read_object(line: str, where: str, folder: Path) -> Prompt:
    try:
        keys = json.loads(line)
    except json.JSONDecodeError as error:
        raise SampleError(where, f"not valid JSON: {error}") from error
    if not isinstance(keys, dict) or not isinstance(keys.get("prompt"), str):
        raise SampleError(where, 'has no "prompt" that is a text: write {"prompt": "…"}')
    check_text(keys["prompt"], where)
    taken = [key for key in RESULT_KEYS if key in keys]
    if taken:
        raise SampleError(where, f"has a key {taken[0]!r}, which its answer has too: give it another name")
    if "image" in keys and "images" in keys:
        raise SampleError(where, "has both image and images: put all pictures into images")
    images = [keys["image"]] if "image" in keys else keys.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise SampleError(where, "its image must be a path, its images a list of paths")
    return Prompt(keys["prompt"], tuple(str(folder / image) for image in images), where, keys)


def with_images(prompts: Iterable[Prompt], images: Sequence[str]) -> list[Prompt]:
    """The prompts, these pictures shown with each before its own."""
    return [replace(prompt, images=(*images, *prompt.images)) for prompt in prompts]


def check_text(text: str, where: str) -> None:
    """Raises ValueError for what no UTF-8 can hold, such as the halves of a character that a terminal passes on."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is not valid UTF-8 at character {error.start}") from error


def load_images(processor, images: Iterable[str | Path], where: str) -> list[Image.Image]:
    """Raises SampleError for pictures that cannot be read, and for any where there is no image encoder."""
    images = list(images)
    if images and is_language_model(processor):
        raise SampleError(
            where,
            f"{images[0]} cannot be shown to a language model without an image encoder: smol-hf compose gives it one",
        )
    return [load_image(ImagePart(path=str(path)), where) for path in images]


def user_turn(text: str, images: Iterable[Image.Image]) -> dict:
    """A message of the chat format."""
    parts = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
