"""Unused parts of a source's records: ignored fields, untrained turns, images outside the folder."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart

FIELDS_SHOWN = 12


@dataclass
class RecordUse:
    """Counts over the usable records of one source.

    `ignored`: records by the name of a non-empty unused field. `empty`: empty answers. `unmarked`: turns that records
    mark as untrained. `outside`: image files outside the folder of images, such as `example`. `videos`: their number.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    unmarked: int = 0
    outside: int = 0
    example: str = ""
    videos: int = 0

    def add(self, conversation: Conversation, folder: Path | None = None) -> None:
        """Count a record with images in `folder`."""
        self.videos += len(conversation.videos)
        self.ignored.update(dict.fromkeys(conversation.ignored, 1))
        for message in conversation.messages:
            if message.role == "assistant" and not message.is_learned:
                self.empty += message.is_blank
                self.unmarked += not message.is_blank
        for image in conversation.images:
            if is_outside(image, folder):
                self.outside += 1
                self.example = self.example or f"{image.path} ({conversation.sample_id})"

    def facts(self) -> dict[str, Any]:
        """Return the counts as numbers and names."""
        return {
            "ignored_fields": dict(self.ignored),
            "empty_answers": self.empty,
            "untrained_turns": self.unmarked,
            "images_outside": self.outside,
            **({"image_outside": self.example} if self.example else {}),
        }


def is_outside(image: ImagePart, folder: Path | None) -> bool:
    """Return whether the file of an image lies outside the folder, links followed."""
    if image.path is None or folder is None:
        return False
    real = real_folder(str(folder))
    return os.path.commonpath([os.path.realpath(image.path), real]) != real


@functools.lru_cache(maxsize=1024)
def real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def describe_ignored(ignored: Mapping[str, int], name: str = "") -> list[str]:
    """Return the line about ignored fields, if any."""
    if not ignored:
        return []
    named = sorted(ignored.items(), key=lambda each: -each[1])
    shown = ", ".join(f"{key} ({number:,})" for key, number in named[:FIELDS_SHOWN])
    more = f" and {len(named) - FIELDS_SHOWN} more" if len(named) > FIELDS_SHOWN else ""
    return [f"ignored fields{f' of {name}' if name else ''}, with the number of records: {shown}{more}"]


def describe_use(facts: Mapping[str, Any], name: str = "") -> list[str]:
    """Return lines about the counts of `RecordUse.facts` that are not 0.

    Args:
        name: of the source, if there are several.
    """
    of_source = f" of {name}" if name else ""
    lines = describe_ignored(facts["ignored_fields"], name)
    if facts["empty_answers"]:
        lines.append(f"empty answers{of_source}, not trained: {facts['empty_answers']:,}")
    if facts["untrained_turns"]:
        lines.append(f"turns{of_source} that are marked as not trained: {facts['untrained_turns']:,}")
    if facts["images_outside"]:
        number, example = facts["images_outside"], facts["image_outside"]
        lines.append(f"images{of_source} outside the folder of images: {number:,}, such as {example}")
    return lines


def describe_sources(uses: Mapping[int, RecordUse], names: Iterable[str]) -> list[str]:
    """Return the lines of `describe_use` for each source."""
    names = list(names)
    return [
        line
        for source, use in sorted(uses.items())
        for line in describe_use(use.facts(), names[source] if len(names) > 1 else "")
    ]
