"""Baselines of a score: the same questions without images, with those of other rows, and the commonest answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from smol_hf.data.conversation import Conversation, ImagePart, TextPart, VideoPart
from smol_hf.evaluation.tasks import Question

ASKED, BLIND, SHUFFLED, MAJORITY = "asked", "blind", "shuffled", "majority"
BASELINES = {
    BLIND: "the images and videos are removed",
    SHUFFLED: "each row shows the images and videos of another row",
    MAJORITY: "the commonest reference of the source answers each of its questions",
}


def chosen_baselines(words: Sequence[str]) -> tuple[str, ...]:
    """Return the baselines that words name; "all" and "none" too. Raises ValueError for an unknown word."""
    if list(words) in (["all"], ["none"]):
        return tuple(BASELINES) if words[0] == "all" else ()
    if unknown := [word for word in words if word not in BASELINES]:
        raise ValueError(f"unknown baseline {unknown[0]!r}: choose all, none, or some of {', '.join(BASELINES)}")
    return tuple(name for name in BASELINES if name in words)


def conversations_of(view: str, questions: Sequence[Question], seed: int) -> list[Conversation | None]:
    """Return what the model sees of each question in a view; None for a question that the view leaves out."""
    if view == ASKED:
        return [each.conversation for each in questions]
    if view == BLIND:
        return [blind(each.conversation) if each.conversation.media else None for each in questions]
    return shuffled([each.conversation for each in questions], seed)


def blind(conversation: Conversation) -> Conversation:
    """Return the conversation without its images and videos."""
    messages = [
        replace(message, parts=tuple(part for part in message.parts if isinstance(part, TextPart)))
        for message in conversation.messages
    ]
    return replace(conversation, messages=tuple(messages))


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation | None]:
    """Return each conversation with the media of another one, of the same number and kinds.

    Rows with the same media get the same other ones. None for a row without media, or without another such row.
    """
    groups: dict[tuple, dict[tuple, None]] = {}
    for each in conversations:
        if each.media:
            groups.setdefault(tuple(map(type, each.media)), {})[tuple(each.media)] = None
    other: dict[tuple[ImagePart | VideoPart, ...], tuple[ImagePart | VideoPart, ...]] = {}
    for number, group in enumerate(groups.values()):
        media = list(group)
        random.Random(f"{seed} {number}").shuffle(media)
        if len(media) > 1:
            other |= dict(zip(media, [*media[1:], media[0]]))
    return [with_media(each, other[key]) if (key := tuple(each.media)) in other else None for each in conversations]


def with_media(conversation: Conversation, media: Sequence[ImagePart | VideoPart]) -> Conversation:
    shown = iter(media)
    messages = [
        replace(message, parts=tuple(part if isinstance(part, TextPart) else next(shown) for part in message.parts))
        for message in conversation.messages
    ]
    return replace(conversation, messages=tuple(messages))


def majority_answers(questions: Sequence[Question]) -> list[str]:
    """Return for each question the commonest first reference of its source; of several, the first in the data."""
    counts: dict[str, Counter[str]] = {}
    for each in questions:
        counts.setdefault(each.source, Counter())[each.references[0]] += 1
    commonest = {source: counter.most_common(1)[0][0] for source, counter in counts.items()}
    return [commonest[each.source] for each in questions]
