"""Misspelt keys of images and videos, which would train a sample without its image or video."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, SampleError, TextPart, VideoPart
from smol_hf.data.records.turn_keys import is_given

MEDIA_KEYS = ("image", "images", "video", "videos")
MARKERS = ("<image>", "<video>")
SIMILAR = 0.75  # share of equal letters
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")


def meant(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that `key` misspells, such as `video` for `vidoe` or `Vedio`; None for other words."""
    word = key.casefold()
    found = [
        (1.0 if sorted(word) == sorted(each) else difflib.SequenceMatcher(None, word, each).ratio(), each)
        for each in known
        if abs(len(word) - len(each)) <= 1
    ]
    similar, best = max(found, default=(0.0, ""))
    return best if similar >= SIMILAR else None


def advice(key: str) -> str:
    return f"Rename it, or train without it (ignore_fields: [{key}])"


def refuse_misspelt(unknown: Mapping[Any, Any], record: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise SampleError for an unknown key that misspells the key of an image or video that the record lacks.

    Args:
        unknown: the part of the record that its adapter does not read.
        known: the keys that it reads.
    """
    media = [each for each in MEDIA_KEYS if each in known]
    for key, value in unknown.items():
        if not isinstance(value, (str, bytes, list, dict)) or not is_given(value):
            continue
        right = meant(str(key), media)
        if right is not None and not any(is_given(record.get(each)) for each in of_kind(right)):
            raise SampleError(where, f"has the unknown key {key!r}, did you mean {right!r}? {advice(key)}")


def refuse_unseen(unknown: Mapping[Any, Any], conversation: Conversation, known: Iterable[str], where: str) -> None:
    """Raise SampleError for a conversation whose image or video is under a key that nothing reads.

    That is a key of a turn, or a file under any key while a text of the user has a marker.
    """
    for name in conversation.ignored:
        key = name.rpartition(".")[2]
        if name == key or (right := meant(key, MEDIA_KEYS)) is None:
            continue
        kind = ImagePart if right.startswith("image") else VideoPart
        if not any(isinstance(part, kind) for part in conversation.media):
            hint = f"put it into the record as {right!r}" if key == right else f"did you mean {right!r}? {advice(key)}"
            raise SampleError(where, f"has the key {name!r}, which is not read: {hint}")
    if conversation.media or not set(MEDIA_KEYS) & set(known):
        return
    texts = [part.text for turn in conversation.messages if turn.role == "user" for part in turn.parts
             if isinstance(part, TextPart)]  # fmt: skip
    marker = next((each for each in MARKERS if any(each in text for text in texts)), None)
    for key, value in unknown.items() if marker is not None else ():
        if (kind := kind_of(value)) is not None:
            problem = f"has {marker} in its text, and {value!r:.80} under the unknown key {key!r}"
            raise SampleError(where, f"{problem}, did you mean {kind!r}? {advice(key)}")


def of_kind(key: str) -> tuple[str, str]:
    one = key.removesuffix("s")
    return one, f"{one}s"


def kind_of(value: Any) -> str | None:
    """Return `image` or `video` for a file or a list of files, by its suffix; an object with bytes is an image."""
    if isinstance(value, list):
        return kind_of(value[0]) if value else None
    if isinstance(value, dict):
        return kind_of(value.get("path")) or ("image" if isinstance(value.get("bytes"), bytes) else None)
    if isinstance(value, str):
        name = value.lower()
        return "video" if name.endswith(VIDEO_SUFFIXES) else "image" if name.endswith(IMAGE_SUFFIXES) else None
    return None
