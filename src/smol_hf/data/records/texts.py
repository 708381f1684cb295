"""Rows of FineVision, The Cauldron and Docmatix.

{"images": [image, …] | null, "texts": [{"user": text, "assistant": text, "source"?: text}, …], "source"?: text,
 "relevance_ratings"?: [int, …], …}: all images come first. Each rating is for the exchange at its position.
`<image>` in a text is text.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart
from smol_hf.data.records.dialogue import media_first, said, with_system
from smol_hf.data.records.fields import Fields, label
from smol_hf.data.records.media import media_parts
from smol_hf.data.records.registry import Place, adapter
from smol_hf.data.records.turn_keys import SYSTEM_KEYS, TRAIN_KEYS, ignored_turn_keys, is_trained, refuse_unsupported

RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")


@adapter(
    "texts",
    datasets=("HuggingFaceM4/FineVision", "HuggingFaceM4/the_cauldron", "HuggingFaceM4/Docmatix"),
    shape=("texts",),
    fields=(
        "images",
        "texts",
        "source",
        *SYSTEM_KEYS,
        *(f"{name}_{of}" for name in RATINGS for of in ("ratings", "min")),
    ),
)
def read_texts(record: dict[str, Any], place: Place) -> Conversation:
    """Images, then exchanges about them, which may be rated."""
    fields = Fields(record, place, "texts")
    images = media_parts(fields.nullable("images") or [], "images", ImagePart, place)
    exchanges = fields.objects("texts")
    messages = []
    for number, exchange in enumerate(exchanges, start=1):
        refuse_unsupported(exchange.values, number, place.where)
        trained = is_trained(exchange.values, "assistant", number, place.where)
        answer = said("assistant", exchange.text("assistant"), trained=trained)
        messages += [said("user", exchange.text("user")), answer]
    source = label(record, "source") or next((label(each.values, "source") for each in exchanges), "")
    return Conversation(
        place.where,
        tuple(with_system(media_first(messages, images, place.where), record, place.where)),
        source,
        ratings_of_turns(fields, len(exchanges)),
        ignored_turn_keys([each.values for each in exchanges], ("user", "assistant", "source", *TRAIN_KEYS), "texts"),
    )


def ratings_of_turns(fields: Fields, exchanges: int) -> tuple[dict[str, int], ...]:
    """Return one mapping of ratings per exchange; () for a record without ratings."""
    ratings: list[dict[str, int]] = [{} for _ in range(exchanges)]
    for name in RATINGS:
        key = f"{name}_ratings"
        values = fields.values.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != exchanges:
            raise fields.fault(f"the field {key!r} must be a list of {exchanges} ratings, one for each of 'texts'")
        for rating, value in zip(ratings, values):
            if value is None:
                continue
            if not isinstance(value, int):
                raise fields.fault(f"the field {key!r} must hold whole numbers, not {value!r}")
            rating[name] = value
    return tuple(ratings) if any(ratings) else ()
