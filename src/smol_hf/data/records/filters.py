"""Which exchanges and which conversations are worth training on. The defaults leave nothing out.

An exchange, or turn, is what a user says and what is answered. Exchanges are removed first; then the limits look at
what remains, and a conversation beyond one of them is left out whole: nothing is ever cut.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smol_hf.data.conversation import Conversation, Message, Part, SampleError, TextPart
from smol_hf.data.records.texts import RATINGS
from smol_hf.support.formatting import nearest

LOOKS_MISSPELT = 0.8


@dataclass(frozen=True)
class Filters:
    """Args:
        min_ratings: for the name of a rating the least that an exchange must have; one that was not rated stays.
        min_images, max_images: of a conversation.
        max_turns: the most exchanges of a conversation.
        max_characters: the most characters of all texts of a conversation together.
        drop_empty_turns: remove exchanges without a question or without an answer. An image or video is a question.

    Raises:
        ValueError: for a limit that cannot be one.
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
            # Other adapters may rate by other names; a name that is nearly one of ours is a mistake.
            if name not in RATINGS and difflib.get_close_matches(str(name), RATINGS, n=1, cutoff=LOOKS_MISSPELT):
                raise ValueError(f"min_ratings has the unknown rating {name!r}{nearest(str(name), RATINGS)}")
        if self.max_images is not None and self.min_images > self.max_images:
            raise ValueError(f"min_images {self.min_images} is more than max_images {self.max_images}: lower it")
        if not isinstance(self.drop_empty_turns, bool):
            raise ValueError(f"drop_empty_turns must be true or false, not {self.drop_empty_turns!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Filters:
        """Filters as a recipe writes them. Raises ValueError for an unknown key, with the nearest one."""
        known = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown filter {key!r}{nearest(str(key), known)} (there are {', '.join(known)})")
        return cls(**values)

    def apply(self, conversation: Conversation) -> tuple[Conversation | None, str | None]:
        """(what remains, None), or (None, the reason) when nothing does.

        Images and videos of a removed exchange go to the next one that remains, which may be about them too; those
        after which nothing remains go with it.

        Raises:
            SampleError: when a conversation has ratings, but not one mapping for each exchange.
        """
        opening, exchanges = exchanges_of(conversation)
        ratings = conversation.turn_ratings or ({},) * len(exchanges)
        if len(ratings) != len(exchanges):
            raise SampleError(conversation.sample_id, f"ratings of {len(ratings)} turns, but {len(exchanges)} turns")
        messages, kept, carried, reasons = opening, [], [], Counter()
        for exchange, rating in zip(exchanges, ratings):
            reason = self.reason_to_remove(exchange, rating)
            if reason is not None:
                reasons[reason] += 1
                carried += [part for part in parts_of(exchange) if not isinstance(part, TextPart)]
                continue
            messages += showing(carried, exchange)
            kept.append(rating)
            carried = []
        if not kept:
            removed = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            return None, f"no turn is left: {removed or 'there was none'}"
        if reasons:
            turn_ratings = tuple(kept) if conversation.turn_ratings else ()
            conversation = dataclasses.replace(conversation, messages=tuple(messages), turn_ratings=turn_ratings)
        problem = self.limit_broken_by(conversation, len(kept))
        return (None, problem) if problem else (conversation, None)

    def reason_to_remove(self, exchange: list[Message], rating: dict[str, int]) -> str | None:
        for name, least in self.min_ratings.items():
            if name in rating and rating[name] < least:
                return f"rated below {least} in {name}"
        if self.drop_empty_turns and not all(says_something(exchange, role) for role in ("user", "assistant")):
            return "without a question or an answer"
        return None

    def limit_broken_by(self, conversation: Conversation, turns: int) -> str | None:
        images = len(conversation.images)
        characters = sum(len(part.text) for part in parts_of(conversation.messages) if isinstance(part, TextPart))
        if images < self.min_images:
            return f"{images} images, fewer than min_images {self.min_images}"
        if self.max_images is not None and images > self.max_images:
            return f"{images} images, more than max_images {self.max_images}"
        if self.max_turns is not None and turns > self.max_turns:
            return f"{turns} turns, more than max_turns {self.max_turns}"
        if self.max_characters is not None and characters > self.max_characters:
            return f"{characters} characters, more than max_characters {self.max_characters}"
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


def parts_of(messages) -> list[Part]:
    return [part for message in messages for part in message.parts]


def says_something(exchange: list[Message], role: str) -> bool:
    return any(not message.is_blank for message in exchange if message.role == role)


def showing(media: list[Part], exchange: list[Message]) -> list[Message]:
    """The exchange with media in front of what its user says."""
    if not media:
        return exchange
    return [dataclasses.replace(exchange[0], parts=(*media, *exchange[0].parts)), *exchange[1:]]
