"""Read a record with its adapter and apply the recipe's filters. The default filters keep everything.

An exchange, or turn, is a user's question with its answer. Filters first remove exchanges. Then the limits apply to
the rest: a conversation beyond a limit is left out completely, never cut.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smol_hf.data.conversation import DOCUMENT, Conversation, FilteredOutError, Message, SampleError, TextPart
from smol_hf.data.media.images import MAXIMUM_BYTES, check_bytes
from smol_hf.data.records.registry import Place, adapt
from smol_hf.data.records.texts import RATINGS
from smol_hf.data.records.turn_keys import TOO_DEEP, without_fields
from smol_hf.support.formatting import counted, nearest

LOOKS_MISSPELT = 0.8


@dataclass(frozen=True)
class Filters:
    """The filters of a recipe.

    Args:
        min_ratings: name of a rating → the lowest value of a kept exchange. Exchanges without this rating are kept.
        min_images, max_images: of a conversation.
        max_turns: the most exchanges of a conversation.
        max_characters: the most characters of all texts of a conversation together.
        drop_empty_turns: remove exchanges without a question or without an answer. An image or video is a question.

    Raises:
        ValueError: for an invalid limit.
    """

    min_ratings: dict[str, int] = field(default_factory=dict)
    min_images: int = 0
    max_images: int | None = None
    max_turns: int | None = None
    max_characters: int | None = None
    drop_empty_turns: bool = False

    def __post_init__(self):
        if not isinstance(self.min_ratings, Mapping):
            raise ValueError(f"min_ratings must map names to whole numbers, not be {self.min_ratings!r}")
        limits = {f"min_ratings.{name}": least for name, least in self.min_ratings.items()}
        limits["min_images"] = self.min_images
        for name in ("max_images", "max_turns", "max_characters"):
            if getattr(self, name) is not None:
                limits[name] = getattr(self, name)
        for name, value in limits.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be a whole number of 0 or more, not {value!r}")
        for name in self.min_ratings:
            # Other adapters may use other names. A name that is nearly one of ours is a mistake.
            if name not in RATINGS and difflib.get_close_matches(str(name), RATINGS, n=1, cutoff=LOOKS_MISSPELT):
                raise ValueError(f"min_ratings has the unknown rating {name!r}{nearest(str(name), RATINGS)}")
        if self.max_images is not None and self.min_images > self.max_images:
            raise ValueError(f"min_images {self.min_images} is more than max_images {self.max_images}: lower it")
        if not isinstance(self.drop_empty_turns, bool):
            raise ValueError(f"drop_empty_turns must be true or false, not {self.drop_empty_turns!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Filters:
        """Build filters from a recipe's mapping. Raises ValueError for an unknown key, with the nearest one."""
        known = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown filter {key!r}{nearest(str(key), known)} (there are {', '.join(known)})")
        return cls(**values)

    def apply(self, conversation: Conversation) -> tuple[Conversation | None, str | None]:
        """Return (the filtered conversation, None), or (None, the reason) if it is left out.

        Images and videos of a removed exchange move to the next kept one, which may be about them too. Those after the
        last kept exchange are removed with theirs.

        Raises:
            SampleError: for a conversation with ratings, but not one mapping for each exchange.
        """
        messages, exchanges = exchanges_of(conversation)
        ratings = conversation.turn_ratings or ({},) * len(exchanges)
        if len(ratings) != len(exchanges):
            raise SampleError(conversation.sample_id, f"ratings of {len(ratings)} turns, but {len(exchanges)} turns")
        kept, moved, reasons = [], [], Counter()
        for exchange, rating in zip(exchanges, ratings):
            reason = self.rated_too_low(rating) if self.min_ratings else None
            if reason or (self.drop_empty_turns and (reason := is_empty(exchange))):
                reasons[reason] += 1
                moved += [part for each in exchange for part in each.parts if not isinstance(part, TextPart)]
                continue
            first = exchange[0]
            messages += [dataclasses.replace(first, parts=(*moved, *first.parts)) if moved else first, *exchange[1:]]
            kept.append(rating)
            moved = []
        if not kept:
            removed = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            return None, f"no turn is left: {removed or 'there was none'}"
        if reasons:
            turn_ratings = tuple(kept) if conversation.turn_ratings else ()
            conversation = dataclasses.replace(conversation, messages=tuple(messages), turn_ratings=turn_ratings)
        parts = (part for message in conversation.messages for part in message.parts)
        found = {
            "images": len(conversation.images),
            "turns": len(kept),
            "characters": sum(len(part.text) for part in parts if isinstance(part, TextPart)),
        }
        if found["images"] < self.min_images:
            return None, f"{counted(found['images'], 'image')}, fewer than min_images {self.min_images}"
        for name, number in found.items():
            most = getattr(self, f"max_{name}")
            if most is not None and number > most:
                return None, f"{number} {name}, more than max_{name} {most}"
        return conversation, None

    def rated_too_low(self, rating: dict[str, int]) -> str | None:
        for name, least in self.min_ratings.items():
            if name in rating and rating[name] < least:
                return f"rated below {least} in {name}"
        return None


def exchanges_of(conversation: Conversation) -> tuple[list[Message], list[list[Message]]]:
    """(system messages that open the conversation, the messages of each exchange)."""
    opening: list[Message] = []
    exchanges: list[list[Message]] = []
    for message in conversation.messages:
        if message.role == "system" and not exchanges:
            opening.append(message)
        elif not exchanges or (message.role == "user" and exchanges[-1][-1].role != "user"):
            exchanges.append([message])
        else:
            exchanges[-1].append(message)
    return opening, exchanges


def is_empty(exchange: list[Message]) -> str | None:
    """Return the reason to remove an exchange without a question or without an answer. A plain text needs neither."""
    roles = {message.role for message in exchange if not message.is_blank}
    return None if {"user", "assistant"} <= roles or DOCUMENT in roles else "without a question or an answer"


@dataclass(frozen=True)
class RecordReader:
    """(where, record) → its `Conversation`, with the recipe's filters applied.

    Raises:
        SampleError: for a record or image that cannot be used, and for one without a trained answer.
        FilteredOutError: for a record that the filters reject.
    """

    media_folder: Path | None
    adapter: str | None
    filters: Filters
    inside_only: bool = False
    dataset: str | None = None
    max_image_bytes: int = MAXIMUM_BYTES
    ignore_fields: frozenset[str] = frozenset()

    def __call__(self, where: str, record: Any) -> Conversation:
        place = Place(where, self.media_folder, self.inside_only)
        try:
            record = without_fields(record, self.ignore_fields) if self.ignore_fields else record
            conversation = adapt(record, place, self.adapter, self.dataset)
        except RecursionError as error:
            raise SampleError(where, TOO_DEEP) from error
        conversation, reason = self.filters.apply(conversation)
        if conversation is None:
            raise FilteredOutError(where, f"left out by filters: {reason}")
        if not any(message.is_learned for message in conversation.messages):
            raise SampleError(where, "no answer to train: all are empty or marked as not trained. Remove the record")
        for image in conversation.images:
            check_bytes(image, where, self.max_image_bytes)
        return conversation
