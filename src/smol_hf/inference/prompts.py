"""Prompts: a text on the command line or the lines of a file, with images and videos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.turn_keys import IDENTIFIERS, MARKERS, MEDIA_KEYS, meant
from smol_hf.support.formatting import counted

JSON_LINES = (".jsonl", ".ndjson")
PROMPT_KEYS = ("prompt", *MEDIA_KEYS)
RESULT_KEYS = ("text", "tokens", "tokens_per_second", "finish_reason")


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Args:
        text: no special token is read in it.
        images, videos: paths; images are shown before videos, and both before the text.
        where: its name in errors: file and line; empty if it is the only one.
        keys: of its line in the file; they are written with the answer.
    """

    text: str
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    where: str = ""
    keys: dict = field(default_factory=dict)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read the prompts of a file, without blank lines.

    In a `.jsonl` file each line is an object: `prompt`, `image` (a path) or `images` (a list of paths) relative to the
    file's folder, `video` or `videos` likewise, and any other keys. In another file each line is a prompt.

    Raises:
        FileNotFoundError: if the file is missing.
        SampleError: with the line, if it is not UTF-8 or not a prompt; for a file without prompts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file of prompts not found: {path}")
    prompts = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise SampleError(where, f"not valid UTF-8 at byte {error.start} of the line: save it as UTF-8") from error
        if text.strip() and path.suffix in JSON_LINES:
            prompts.append(read_object(text, where, path.parent))
        elif text.strip():
            prompts.append(Prompt(text, where=where, keys={"prompt": text}))
    if not prompts:
        raise SampleError(str(path), "contains no prompt: write one on each line")
    return prompts


def read_object(line: str, where: str, folder: Path) -> Prompt:
    try:
        keys = json.loads(line)
    except json.JSONDecodeError as error:
        raise SampleError(where, f"not valid JSON: {error}") from error
    for key in keys if isinstance(keys, dict) else ():
        if key not in PROMPT_KEYS and (right := meant(key, PROMPT_KEYS)) is not None:
            raise SampleError(where, f"the unknown key {key!r}, did you mean {right!r}? Rename it")
    if not isinstance(keys, dict) or not isinstance(keys.get("prompt"), str):
        raise SampleError(where, '"prompt" is missing or not a text: write {"prompt": "…"}')
    check_text(keys["prompt"], where)
    taken = [key for key in RESULT_KEYS if key in keys]
    if taken:
        raise SampleError(where, f"the key {taken[0]!r} is also a key of the answer: rename it")
    images, videos = (paths_of(keys, kind, where, folder) for kind in ("image", "video"))
    return Prompt(keys["prompt"], images, videos, where, keys)


def paths_of(keys: dict, kind: str, where: str, folder: Path) -> tuple[str, ...]:
    """Read `image` and `images`, or `video` and `videos`, of a line."""
    if kind in keys and f"{kind}s" in keys:
        raise SampleError(where, f"has both {kind} and {kind}s: put all {kind}s into {kind}s")
    paths = [keys[kind]] if kind in keys else keys.get(f"{kind}s", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise SampleError(where, f"{kind} must be a path, {kind}s a list of paths")
    return tuple(str(folder / path) for path in paths)


def with_media(prompts: Iterable[Prompt], images: Sequence[str], videos: Sequence[str]) -> list[Prompt]:
    """Show these images and videos with each prompt, before its own."""
    return [replace(prompt, images=(*images, *prompt.images), videos=(*videos, *prompt.videos)) for prompt in prompts]


def notes_about(prompts: Sequence[Prompt]) -> list[str]:
    """Return sentences about keys without an effect, and about markers, which are text in a prompt."""
    unused = Counter(key for each in prompts for key in each.keys if key not in (*PROMPT_KEYS, *IDENTIFIERS))
    shown = ", ".join(f"{key} ({number:,})" for key, number in unused.items())
    notes = [f"keys without an effect on the answers, with the number of prompts: {shown}"] if unused else []
    for marker in MARKERS:
        if number := sum(marker in each.text for each in prompts):
            kind = marker.strip("<>")
            notes.append(
                f"{marker} is plain text in {counted(number, 'prompt')}: --{kind} or the key {kind} names the {kind}, "
                "which is shown before the text"
            )
    return notes


def check_text(text: str, where: str) -> None:
    """Raise ValueError for text that UTF-8 cannot encode, such as half a character from a terminal."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where or 'the prompt'} is not valid UTF-8 at character {error.start}") from error
