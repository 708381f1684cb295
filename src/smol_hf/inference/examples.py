"""Choose the examples of a page: samples of the model's training data, or of a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from smol_hf.data.conversation import Conversation, ImagePart, SampleError, TextPart, VideoPart
from smol_hf.data.digits import evaluation_questions
from smol_hf.data.media.images import load_image
from smol_hf.data.sources.files import is_remote
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.sources.location import open_location
from smol_hf.inference.prompts import read_prompts
from smol_hf.support.formatting import one_line
from smol_hf.text.preferences import preference_of
from smol_hf.training.data import open_data
from smol_hf.training.document_data import DocumentData
from smol_hf.training.recipe.data_arguments import DataArguments

NONE = "none"
DIGITS = "digits"
NUMBER = 3
MOST_RECORDS = 300  # records that are read to find examples
MOST_CHARACTERS = 300  # of an example
MOST_PIXELS = 1024  # of the longer side of an image
BEGINNING = 8  # words of a document
PAGE_SIZE, PAGES = 256, (0, 3, 2)  # of the embedded digits
ADVICE = "choose others with --examples FILE"


@dataclass(frozen=True)
class Example:
    """A text that a visitor sends with a click, and PNG images shown before it."""

    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Examples, and a `note` of one line that names their source, or says why none was found."""

    found: tuple[Example, ...]
    note: str
    of_digits: bool = False


def examples_of(folder: Path, *, shows_images: bool, file: str | None = None) -> Examples:
    """Choose the examples of a checkpoint's page.

    Training data is only read if the checkpoint is in the output folder of its run: a downloaded `recipe.yaml` names
    files of another machine. Datasets of the Hub are not downloaded.

    Args:
        folder: the checkpoint, with `recipe.yaml` if it was trained here.
        file: prompts as for `smol-hf generate --prompts-file`, or `none`.

    Raises:
        FileNotFoundError, SampleError: if `file` cannot be read.
    """
    if file == NONE:
        return Examples((), "no examples")
    if file is not None:
        return Examples(tuple(of_file(file, shows_images)), f"examples: {file}")
    recipe = read_recipe(folder)
    if data_of(recipe) == [DIGITS]:
        found = tuple(of_digits()) if shows_images else ()
        return Examples(found, "examples: pages of the embedded digits" if found else "no examples", bool(found))
    names = [str(name) for name in data_of(recipe)]
    if not names:
        return Examples((), f"no examples: the recipe of the checkpoint names no training data; {ADVICE}")
    data = ", ".join(names)
    if not (folder.resolve().parent / "run.json").is_file():
        return Examples((), f"no examples: the output folder of the training run was not found; {ADVICE}")
    if any(hub_id(name) is not None or is_remote(name) for name in names):
        return Examples((), f"no examples: the training data is not on this machine ({data}); {ADVICE}")
    try:
        texts = first_distinct(of_recipe(recipe), shows_images)
    except (OSError, ValueError) as error:
        return Examples((), f"no examples: the training data cannot be read ({one_line(error)}); {ADVICE}")
    if not texts:
        return Examples((), f"no examples: none of the first samples of {data} is a short question; {ADVICE}")
    return Examples(texts, f"examples: samples of the training data ({data}); {ADVICE}, or --examples {NONE}")


def read_recipe(folder: Path) -> dict:
    """Read recipe.yaml; empty if it is missing or cannot be read."""
    with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        return recipe if isinstance(recipe, dict) else {}
    return {}


def data_of(recipe: dict) -> list:
    if recipe.get("mixture"):
        return [entry.get("data") for entry in recipe["mixture"]]
    return [recipe[key] for key in ("documents", "data") if recipe.get(key)][:1]


def of_digits() -> Iterator[Example]:
    pages = evaluation_questions(max(PAGES) + 1, seed=3, page_size=PAGE_SIZE)
    for index in PAGES:
        page = pages[index]
        yield Example(page.question, (as_png(page.conversation.images[0], "the embedded digits"),))


def of_file(path: str, shows_images: bool) -> Iterator[Example]:
    """Yield the prompts of a file. Raise SampleError for a video, and for an image without an image encoder."""
    for prompt in read_prompts(path):
        if prompt.videos:
            raise SampleError(prompt.where, "shows a video, and examples of a page show only images: remove it")
        if prompt.images and not shows_images:
            raise SampleError(prompt.where, "shows an image, but the model has no image encoder")
        parts = [ImagePart(path=image) for image in prompt.images]
        yield Example(prompt.text, tuple(as_png(part, prompt.where) for part in parts))


def of_recipe(recipe: dict) -> Iterator[tuple[str, list[ImagePart]]]:
    """Yield (text, images) of the first samples of the training data.

    Raises:
        OSError, ValueError: if the data is missing or cannot be read.
    """
    known = {entry.name for entry in fields(DataArguments)} - ({"data"} if recipe.get("mixture") else set())
    arguments = DataArguments(**{key: recipe[key] for key in known & recipe.keys() if recipe[key] is not None})
    if arguments.documents is not None:
        for document in islice(DocumentData.open(arguments).texts(), MOST_RECORDS):
            words = document[:MOST_CHARACTERS].split()
            yield " ".join(words[:BEGINNING]), []
    elif "beta" in recipe:  # preferences
        rows = (row for row in open_location(arguments.data).source.all_rows() if row[1] is not None)
        for where, record in islice(rows, MOST_RECORDS):
            with suppress(SampleError):
                messages: Any = preference_of(where, record, chats=True).prompt  # a list, since `chats` is True
                yield messages[-1]["content"], []
    else:
        for sample in open_data(arguments, seed=0).conversations(MOST_RECORDS):
            if not any(isinstance(part, VideoPart) for message in sample.messages for part in message.parts):
                yield question_of(sample)


def question_of(sample: Conversation) -> tuple[str, list[ImagePart]]:
    """Return text and images of the first user message."""
    parts = next((message.parts for message in sample.messages if message.role == "user"), ())
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "".join(texts).strip(), [part for part in parts if isinstance(part, ImagePart)]


def first_distinct(samples: Iterable[tuple[str, list[ImagePart]]], shows_images: bool) -> tuple[Example, ...]:
    """Choose the first few examples with different texts, those with images first."""
    chosen: dict[str, tuple[str, list[ImagePart]]] = {}
    for text, images in samples:
        if text and len(text) <= MOST_CHARACTERS and (shows_images or not images):
            chosen.setdefault(text, (text, images))
    in_order = sorted(chosen.values(), key=lambda sample: not sample[1])
    examples = []
    for text, images in in_order:
        with suppress(SampleError):
            examples.append(Example(text, tuple(as_png(image, "the training data") for image in images)))
        if len(examples) == NUMBER:
            break
    return tuple(examples)


def as_png(part: ImagePart, where: str) -> bytes:
    """Encode an image for a page: upright and not too large."""
    image = load_image(part, where)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_settings(examples: Iterable[Example]) -> tuple[list[dict], dict[str, bytes]]:
    """Return the entries of space.json, and the image files that they name."""
    entries, files = [], {}
    for number, example in enumerate(examples, start=1):
        names = [f"examples/{number}-{place}.png" for place in range(1, len(example.images) + 1)]
        files |= dict(zip(names, example.images))
        entries.append({"text": example.text, "images": names} if names else {"text": example.text})
    return entries, files
