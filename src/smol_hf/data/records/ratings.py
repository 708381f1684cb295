"""Ratings of turns in our files: a list of {"name": text, "rating": whole number} for each exchange."""

from __future__ import annotations

from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.fields import Fields
from smol_hf.data.records.registry import Place

KEY = "turn_ratings"


def written_ratings(record: dict[str, Any], place: Place) -> tuple[dict[str, int], ...]:
    """Return the ratings under `turn_ratings`; () without the key."""
    turns = record.get(KEY)
    if turns is None:
        return ()
    if not isinstance(turns, list):
        raise SampleError(place.where, f"the field {KEY!r} must be a list, not {type(turns).__name__}")
    exchanges = Fields({str(number): turn for number, turn in enumerate(turns)}, place, KEY, KEY)
    result = []
    for number in exchanges.values:
        ratings = {}
        for each in exchanges.objects(number):
            rating = each.given("rating")
            if not isinstance(rating, int):
                raise each.fault(f"the field {each.way('rating')!r} must hold a whole number, not {rating!r}")
            ratings[each.text("name")] = rating
        result.append(ratings)
    return tuple(result)


def ratings_record(ratings: tuple[dict[str, int], ...]) -> list[list[dict[str, Any]]]:
    """Return the ratings of a conversation in the form that `written_ratings` reads."""
    return [[{"name": name, "rating": rating} for name, rating in turn.items()] for turn in ratings]
