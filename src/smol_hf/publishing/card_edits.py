"""Changes of a card before it is published: the repository's name, a licence, paths without their folders."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from smol_hf.publishing.contents import Contents, PublishError
from smol_hf.publishing.disclosures import local_paths, read_text, shorten

CARD = "README.md"
# The name that the examples load: a line of the card's program, which its template wrote.
EXAMPLE = re.compile(r'^(checkpoint|adapter) = "(?:[^"\\]|\\.)*"', flags=re.MULTILINE)
NAMELESS = re.compile(r"^# (?:checkpoint|adapter)$", flags=re.MULTILINE)
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+_-]*")


def edits_of(contents: Contents, repository: str, *, license: str | None, shorten_paths: bool) -> dict[str, str]:
    """The new text of each file that changes; nothing is written.

    Args:
        repository: takes the place of the folder's name in the card's example, and in a title that is only
            `checkpoint` or `adapter`.
        license: identifier of the Hub, for the card's front matter.
        shorten_paths: write absolute paths without their folders.

    Raises:
        PublishError: for a card that is missing or not to be read.
    """
    texts = {CARD: read_card(contents)}
    if shorten_paths:
        texts = {name: read_text(contents, name) for name in {CARD, *(each.name for each in local_paths(contents))}}
        texts = {name: shorten(text) for name, text in sorted(texts.items())}
    card = EXAMPLE.sub(lambda match: f"{match[1]} = {json.dumps(repository)}", texts[CARD])
    card = NAMELESS.sub(f"# {repository.split('/')[-1]}", card)
    texts[CARD] = with_license(card, license) if license else card
    return {name: text for name, text in texts.items() if text != read_text(contents, name)}


def read_card(contents: Contents) -> str:
    path = contents.folder / CARD
    if CARD not in contents.files:
        raise PublishError(f"{path} is missing: a checkpoint is published with a model card")
    text = read_text(contents, CARD)
    front_matter(text, path)
    return text


def front_matter(text: str, path: Path) -> dict:
    """What the card's front matter says. Raises PublishError when it has none, or none that can be read."""
    match = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise PublishError(f"{path}: the front matter is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise PublishError(f"{path} does not begin with front matter: lines of YAML between two lines of ---")
    return found


def with_license(text: str, license: str) -> str:
    if not LICENCE.fullmatch(license):
        raise PublishError(f"{license!r} is no licence identifier of the Hub; apache-2.0, mit or other are")
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.license = license
    return str(card)


def changed_lines(before: str, after: str) -> list[str]:
    """The lines that differ, with - and + before them."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in list(lines)[2:] if not line.startswith("@@")]
