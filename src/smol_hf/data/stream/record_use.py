"""Unused parts of a source's records: ignored fields, untrained turns, images and videos outside the folder."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, TextPart, VideoPart
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.formatting import counted, percent
from smol_hf.support.tokenizer_of import unknown_texts

FIELDS_SHOWN = 12
UNKNOWN_KEPT, UNKNOWN_SHOWN = 1000, 12  # different characters or words


@dataclass
class RecordUse:
    """Counts over the usable records of one source.

    `ignored`: records by the name of a non-empty unused field. `empty`: empty answers. `unmarked`: turns that records
    mark as untrained. `outside`: images and videos outside the folder of images, such as `example`. `videos`: their
    number. `labels`: tokens with a label, of these `unknown` to the tokenizer; `unknown_texts` counts the characters
    or words that became these.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    unmarked: int = 0
    outside: int = 0
    example: str = ""
    videos: int = 0
    labels: int = 0
    unknown: int = 0
    unknown_texts: Counter[str] = field(default_factory=Counter)

    def add(self, conversation: Conversation, folder: Path | None = None) -> None:
        """Count a record with images in `folder`."""
        self.videos += len(conversation.videos)
        self.ignored.update(dict.fromkeys(conversation.ignored, 1))
        for message in conversation.messages:
            if message.role == "assistant" and not message.is_learned:
                self.empty += message.is_blank
                self.unmarked += not message.is_blank
        for part in conversation.media:
            if is_outside(part, folder):
                self.outside += 1
                self.example = self.example or f"{part.path} ({conversation.sample_id})"

    def add_labels(self, labels: Sequence[int], conversation: Conversation, tokenizer, unknown_id: int | None) -> None:
        """Count the labels of a record, and those that are unknown to the tokenizer."""
        self.labels += sum(label != IGNORE_INDEX for label in labels)
        unknown = 0 if unknown_id is None else labels.count(unknown_id)
        self.unknown += unknown
        for message in conversation.messages if unknown else ():
            for part in message.parts if message.is_learned else ():
                if isinstance(part, TextPart):
                    found = unknown_texts(tokenizer, part.text)
                    room = len(self.unknown_texts) < UNKNOWN_KEPT
                    self.unknown_texts.update(each for each in found if room or each in self.unknown_texts)

    def facts(self) -> dict[str, Any]:
        """Return the counts as numbers and names."""
        return {
            "ignored_fields": dict(self.ignored),
            "empty_answers": self.empty,
            "untrained_turns": self.unmarked,
            "media_outside": self.outside,
            **({"example_outside": self.example} if self.example else {}),
            **({"unknown_labels": self.unknown} if self.unknown else {}),
        }


def is_outside(part: ImagePart | VideoPart, folder: Path | None) -> bool:
    """Return whether the file of an image or a video lies outside the folder, links followed."""
    if part.path is None or folder is None:
        return False
    real = real_folder(os.path.abspath(folder))
    return os.path.commonpath([os.path.realpath(part.path), real]) != real


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
    if facts["media_outside"]:
        number, example = facts["media_outside"], facts["example_outside"]
        lines.append(f"images and videos{of_source} outside the folder of images: {number:,}, such as {example}")
    return lines


def describe_sources(uses: Mapping[int, RecordUse], names: Iterable[str]) -> list[str]:
    """Return the lines of `describe_use` for each source."""
    names = list(names)
    return [
        line
        for source, use in sorted(uses.items())
        for line in describe_use(use.facts(), names[source] if len(names) > 1 else "")
    ]


def unknown_share(uses: Mapping[int, RecordUse]) -> float:
    """Return the share of the labelled tokens of all sources that are unknown to the tokenizer."""
    return sum(use.unknown for use in uses.values()) / max(sum(use.labels for use in uses.values()), 1)


def describe_unknown(uses: Mapping[int, RecordUse]) -> list[str]:
    """Return the sentences about labels that are unknown to the tokenizer, with examples; none if all are known."""
    unknown, labels = sum(use.unknown for use in uses.values()), sum(use.labels for use in uses.values())
    if not unknown:
        return []
    texts = sum((use.unknown_texts for use in uses.values()), Counter())
    shown = ", ".join(f"{text!r} {counted(number, 'time')}" for text, number in texts.most_common(UNKNOWN_SHOWN))
    more = f" and {len(texts) - UNKNOWN_SHOWN} more" if len(texts) > UNKNOWN_SHOWN else ""
    advice = "choose another tokenizer"
    if texts and all(len(text) == 1 for text in texts):
        advice = f"add them when vision is added (smol-hf compose --add-characters), or {advice}"
    return [
        f"warning: {unknown:,} of {labels:,} labelled tokens ({percent(unknown / labels)}) are unknown to the "
        f"tokenizer{f': {shown}' if shown else ''}{more}",
        f"the model would learn to write the unknown token instead: {advice}",
    ]
