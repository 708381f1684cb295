"""Edits of a model card before it is published: repository name, licence, scores, paths without folders."""

from __future__ import annotations

import difflib
import json
import math
import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from safetensors import safe_open

from smol_hf.conversion.checkpoint_files import read_json, weight_files
from smol_hf.conversion.formats.registry import OURS
from smol_hf.publishing.contents import Contents, PublishError
from smol_hf.publishing.disclosures import local_paths, read_text, shorten
from smol_hf.publishing.model_card import has_chat_template, render_model_card, results_next_to, with_scores
from smol_hf.support.formatting import one_line

CARD = "README.md"
# The line of the card's example that names the checkpoint.
EXAMPLE = re.compile(r'^(checkpoint|adapter) = "(?:[^"\\]|\\.)*"', flags=re.MULTILINE)
NAMELESS = re.compile(r"^# (?:checkpoint|adapter)$", flags=re.MULTILINE)
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+_-]*")


def edits_of(contents: Contents, repository: str, *, license: str | None, shorten_paths: bool) -> dict[str, str]:
    """Return {file: new text} of files that change, and of a missing card. Nothing is written.

    Args:
        repository: replaces the folder's name in the card's example, and a title `checkpoint` or `adapter`.
        license: identifier of the Hub, for the card's front matter.
        shorten_paths: write absolute paths without their folders.
    """
    texts = {CARD: read_text(contents, CARD) if CARD in contents.files else new_card(contents, repository)}
    front_matter(texts[CARD], contents.folder / CARD)  # raises if the card cannot be read
    if shorten_paths:
        found = {each.name for each in local_paths(contents)} - {CARD}
        texts |= {name: read_text(contents, name) for name in sorted(found)}
        texts = {name: shorten(text) for name, text in texts.items()}
    card = EXAMPLE.sub(lambda match: f"{match[1]} = {json.dumps(repository)}", texts[CARD])
    card = NAMELESS.sub(f"# {repository.split('/')[-1]}", card)
    card = with_license(card, license) if license else card
    results, _ = results_next_to(contents.folder)
    texts[CARD] = with_scores(card, results, repository.split("/")[-1]) if results else card
    return {
        name: text for name, text in texts.items() if name not in contents.files or text != read_text(contents, name)
    }


def new_card(contents: Contents, repository: str) -> str:
    """Write a card for a converted, merged or composed checkpoint: what the model is and how to load it."""
    config = {} if contents.is_adapter else read_json(contents.folder / "config.json")
    if config.get("model_type") not in OURS:
        raise PublishError(f"{contents.folder / CARD} is missing: write a model card with a licence first")
    return render_model_card(
        model_name=repository,
        config=config,
        parameters={"total": sum(map(count_numbers, weight_files(contents.folder)))},
        chat=has_chat_template(contents.folder),
    )


def count_numbers(path: Path) -> int:
    """Count the numbers in a file of weights by its header."""
    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.offset_keys())


def front_matter(text: str, path: Path) -> dict:
    """Read the card's front matter. Raise PublishError if it is missing or cannot be read."""
    match = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise PublishError(f"{path}: the front matter is not YAML ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise PublishError(f"{path} has no front matter: begin it with lines of YAML between two lines of ---")
    return found


def refuse_bad_license(license: str) -> None:
    if not LICENCE.fullmatch(license):
        raise PublishError(f"{license!r} is not a licence identifier of the Hub: use apache-2.0, mit or other")


def with_license(text: str, license: str) -> str:
    refuse_bad_license(license)
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data["license"] = license
    return str(card)


def changed_lines(before: str, after: str) -> list[str]:
    """List the lines that differ, with the prefixes - and +."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in list(lines)[2:] if not line.startswith("@@")]
