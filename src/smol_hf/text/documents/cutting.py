"""Long texts in pieces whose tokens, one after the other, are the tokens of the whole text.

A tokenizer splits a text into words before it merges bytes or letters, so it never merges across the space before a
word. What stands around such a place is tokenised both whole and in two, to be sure that this tokenizer is one of
those; without such a place (base64, a language written without spaces) any place is taken at which both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

PIECE = 1 << 16  # characters
AROUND = 100  # characters on each side that are looked at
PLACES_TRIED = 64

Encode = Callable[[str], list[int]]


def pieces(chunks: Iterable[str], encode: Encode, size: int = PIECE) -> Iterator[str]:
    """A text that comes in chunks, as pieces of at most `size` characters.

    Raises:
        ValueError: where the tokenizer merges across every place that was tried.
    """
    waiting = ""
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > size:
            place = place_to_cut(waiting, size, encode)
            yield waiting[:place]
            waiting = waiting[place:]
    if waiting:
        yield waiting


def place_to_cut(text: str, before: int, encode: Encode) -> int:
    """The last place up to `before` at which the text may be cut; places before its middle are not tried."""
    for place in candidates(text, before):
        left, right = text[max(place - AROUND, 0) : place], text[place : place + AROUND]
        if encode(left) + encode(right) == encode(left + right):
            return place
    near = text[before - 20 : before]
    raise ValueError(
        f"the tokenizer cannot read a text of more than {before:,} characters in pieces: near {near!r} it merges "
        "across every place. Cut such documents into shorter ones, or take a byte-level tokenizer"
    )


def candidates(text: str, before: int) -> Iterator[int]:
    place, tried = before, 0
    while tried < PLACES_TRIED and (place := text.rfind(" ", before // 2, place)) > 0:
        if not text[place - 1].isspace() and not text[place + 1].isspace():
            tried += 1
            yield place
    yield from range(before, max(before - PLACES_TRIED, 0), -1)
