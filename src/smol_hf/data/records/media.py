"""The value of an image or video field of a record → the `ImagePart` or `VideoPart`."""

from __future__ import annotations

import base64
import binascii
import os
import reprlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from smol_hf.data.conversation import ImagePart, SampleError, VideoPart
from smol_hf.data.records.registry import Place
from smol_hf.data.records.turn_keys import VIDEO_SUFFIXES

Media = ImagePart | VideoPart
DOWNLOAD_FIRST = (
    "download the images first with img2dataset, and train on the shards that it writes (docs/guides/media.md)"
)
WEB = ("http://", "https://")
LONGEST_PATH = 4096
# How the base64 of an image begins: PNG, JPEG, GIF, WebP, BMP, TIFF of both byte orders, JPEG 2000 and AVIF.
BASE64_SIGNATURES = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0AK", "AAAA", "/0//UQ")
SHORTEST_BASE64 = 60  # characters: no image is smaller
FORMS = ("url", "base64")  # of an image in a mapping, as OpenAI's image_url has them
HINT = "detail"  # its resolution for OpenAI's models; not used here


def media_under(record: dict[str, Any], key: str, kind: type[Media], place: Place) -> list[Media]:
    """Return the media under `image` or `images` (`video` or `videos`). Raises SampleError for both."""
    given = [each for each in (key, f"{key}s") if record.get(each) is not None and not is_none(record[each])]
    if len(given) > 1:
        raise SampleError(place.where, f"has {key}s under '{key}' and under '{key}s': keep one of the two")
    if not given:
        return []
    value = record[given[0]]
    if isinstance(value, list):
        value = [item for item in value if not is_none(item)]
    return media_parts(value, given[0], kind, place)


def is_none(value: Any) -> bool:
    """Return True for a field without media: null, an empty text, list or mapping, or {"bytes": null}."""
    if isinstance(value, dict):
        return all(is_none(each) for each in value.values())
    if isinstance(value, list):
        return all(is_none(each) for each in value)
    return value is None or value in ("", b"")


def media_parts(value: Any, key: str, kind: type[Media], place: Place) -> list[Media]:
    """One part for each image or video in `value`.

    Args:
        value: a path, bytes, base64, a `data:` URL or {"bytes", "path"} (an undecoded column of `datasets`), or a
            list of them.
        key: name of the field, for messages.
        kind: the kind of media. A path with a video's suffix is always a video.

    Raises:
        SampleError: for any other value, and for a path that cannot be used.
    """
    parts = []
    for item in value if isinstance(value, list) else [value]:
        content, path = None, item
        if isinstance(item, bytes):
            content, path = item, None
        elif isinstance(item, dict) and {"bytes", "path"} & set(item):
            content, path = item.get("bytes"), item.get("path")
        elif isinstance(item, dict) and is_none({name: item[name] for name in item if name not in (*FORMS, HINT)}):
            given = [item[name] for name in FORMS if not is_none(item.get(name))]
            path = given[0] if len(given) == 1 else item
        content = None if content == "" else content
        text = content if content is not None else path
        if kind is ImagePart and isinstance(text, str):
            content = image_in_text(text, key, place.where) or content
        is_video = isinstance(path, str) and path.lower().endswith(VIDEO_SUFFIXES)
        part_type = VideoPart if is_video else kind
        if content is not None and not isinstance(content, bytes):
            problem = f"{key} holds {type(content).__name__} as 'bytes': it must be an encoded file"
            raise SampleError(place.where, problem)
        path = checked_path(path, key, place) if content is None else None
        parts.append(part_type(content=content, path=path))
    return parts


def image_in_text(text: str, key: str, where: str) -> bytes | None:
    """Return the image in a `data:` URL or base64; None for any other text."""
    if text.lower().startswith("data:image/"):
        head, _, body = text.partition(",")
        try:
            return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
        except binascii.Error as error:
            raise SampleError(where, f"{key} is a data: URL whose base64 is damaged ({error})") from error
    if len(text) < SHORTEST_BASE64 or not text.startswith(BASE64_SIGNATURES):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None  # a path that begins like it


def checked_path(item: Any, key: str, place: Place) -> str:
    """Return the path of a file in the place's folder, without access to the disk. Raises SampleError."""
    where = place.where
    if not isinstance(item, str) or not item:
        raise SampleError(
            where,
            f"{key} holds {reprlib.repr(item)}: it must be the path of a file, or its bytes "
            "(a column of `datasets` is cast with decode=False)",
        )
    if len(item) > LONGEST_PATH and not item.lower().startswith("data:"):
        raise SampleError(where, f"{key} holds {reprlib.repr(item)}, which cannot be a path: it is too long")
    if "\0" in item or item != item.encode("utf-8", "replace").decode("utf-8"):
        raise SampleError(where, f"{key} holds {item!r}, which cannot be a path")
    if "://" in item or item.lower().startswith(("data:", "file:")):
        shown = item if len(item) <= 200 else f"{item[:200]}…"
        is_image = not key.startswith("video") and not item.lower().endswith(VIDEO_SUFFIXES)
        of_web = is_image and item.lower().startswith(WEB)
        advice = DOWNLOAD_FIRST if of_web else "download it and give the path of the file"
        raise SampleError(where, f"{key} is the URL {shown!r}: {advice}")
    if place.media_folder is None:
        raise SampleError(
            where, f"{key} names the file {item}, but no folder of media is given: the record must hold its bytes"
        )
    if place.inside_only:
        # Open exactly the checked path: "folder/../x" may lead elsewhere if the folder is a link.
        checked = os.path.normpath(item)
        if os.path.isabs(checked) or checked.split(os.sep)[0] == os.pardir:
            raise SampleError(where, f"{key} names {item!r}, which is outside the folder of media: move it inside")
        item = checked
    return str(Path(place.media_folder) / item)
