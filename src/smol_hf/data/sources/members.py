"""Files of one sample (an image, its caption, its JSON) → one record for the adapters.

A `.json` is the record. Images and videos become its `image` or `images` and `video` or `videos`. A `.txt` is its
`caption`.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.turn_keys import IMAGE_SUFFIXES
from smol_hf.data.sources.json_source import parse_json

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
TEXTS = (".json", ".txt")
USED = IMAGE_SUFFIXES + VIDEOS + TEXTS  # endings of the files that are part of a record


def in_order(name: str) -> list:
    """Return a sort key by which 2 comes before 10."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)]


def record_of(texts: dict[str, bytes], media: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the record of some files.

    Args:
        texts: content of each `.json` and `.txt`, by name.
        media: the value of each image and video (a path, or {"bytes", "path"}), by name, in their order.

    Raises:
        SampleError: for a damaged text, missing media, and contradictory captions.
    """
    record: dict[str, Any] = {}
    name = only(texts, ".json", where)
    if name is not None:
        record = json_object(texts[name], name, where)
    name = only(texts, ".txt", where)
    if name is not None:
        caption = utf8_text(texts[name], name, where).strip()
        written = next((record[key] for key in ("caption", "text") if record.get(key) is not None), caption)
        if str(written).strip() != caption:
            raise SampleError(where, f"{name} and the .json have different captions: keep one of them")
        if record.get("text") is None:
            record["caption"] = caption
    for kind, suffixes in (("image", IMAGE_SUFFIXES), ("video", VIDEOS)):
        found = {name: value for name, value in media.items() if name.lower().endswith(suffixes)}
        if found:
            put_media(record, kind, found, where)
    return record


def only(texts: dict[str, bytes], suffix: str, where: str) -> str | None:
    """Return the text of this kind with the shortest ending (`7.json` before `7.objects.json`), if any."""
    names = sorted((name for name in texts if name.lower().endswith(suffix)), key=lambda name: name.count("."))
    if len(names) > 1 and names[0].count(".") == names[1].count("."):
        raise SampleError(where, f"has {' and '.join(names)}: keep one of them")
    return names[0] if names else None


def json_object(content: bytes, name: str, where: str) -> dict[str, Any]:
    try:
        record = parse_json(utf8_text(content, name, where).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(where, f"{name} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError(where, f"{name} holds {type(record).__name__}: a record is a JSON object")
    return record


def utf8_text(content: bytes, name: str, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(where, f"{name} is not UTF-8: {error}") from error


def put_media(record: dict[str, Any], kind: str, media: dict[str, Any], where: str) -> None:
    """Put media at the places that the record names; without names, in their order."""
    key = next((key for key in (kind, f"{kind}s") if record.get(key) not in (None, [])), None)
    if key is None:
        values = list(media.values())
        if len(values) > 1 or (kind == "image" and "texts" in record):
            record[f"{kind}s"] = values
        else:
            record[kind] = values[0]
        return
    named = record[key] if isinstance(record[key], list) else [record[key]]
    if len(named) == len(media) == 1:
        values = list(media.values())
    else:
        waiting = dict(media)
        values = [waiting.pop(matching(each, waiting, key, where)) for each in named]
        if waiting:
            raise SampleError(where, f"'{key}' does not name {', '.join(waiting)}: add it, or delete the file")
    record[key] = values if isinstance(record[key], list) else values[0]


def matching(item: Any, names: dict[str, Any], key: str, where: str) -> str:
    """Return the file for `item` of a record: of the same name, or the same ending after the sample's key."""
    path = item.get("path") if isinstance(item, dict) else item
    wanted = posixpath.basename(path) if isinstance(path, str) else None
    fitting = [name for name in names if wanted in (posixpath.basename(name), ending(name))]
    if wanted is None or len(fitting) != 1:
        raise SampleError(
            where, f"'{key}' names {path!r}, and the files of the sample are {', '.join(names) or 'none'}"
        )
    return fitting[0]


def ending(name: str) -> str:
    """Return the part of a file's name after the first dot."""
    return posixpath.basename(name).partition(".")[2]
