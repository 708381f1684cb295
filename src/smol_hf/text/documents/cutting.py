"""Long texts in pieces whose tokens, joined, are the tokens of the whole text.

A tokenizer splits a text into words before it merges bytes or letters, so most never merge across the space before a
word. To be sure, the text around such a position is tokenised whole and in two. A text without such a position
(base64, a language written without spaces) is cut at any position for which both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

PIECE = 1 << 16  # characters
AROUND = 100  # characters on each side that are compared
MOST_TRIED = 64

Encode = Callable[[str], list[int]]


def pieces(chunks: Iterable[str], encode: Encode, size: int = PIECE) -> Iterator[str]:
    """Yield a text that comes in chunks as pieces of at most `size` characters.

    Raises:
        ValueError: if the tokenizer merges across every position that was tried.
    """
    waiting = ""
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > size:
            position = position_to_cut(waiting, size, encode)
            yield waiting[:position]
            waiting = waiting[position:]
    if waiting:
        yield waiting


def position_to_cut(text: str, before: int, encode: Encode) -> int:
    """Return the last position up to `before` at which the text may be cut. Raises ValueError if there is none."""
    for position in candidates(text, before):
        left, right = text[max(position - AROUND, 0) : position], text[position : position + AROUND]
        if encode(left) + encode(right) == encode(left + right):
            return position
    near = text[before - 20 : before]
    raise ValueError(
        f"the tokenizer cannot read a text of more than {before:,} characters in pieces: near {near!r} it merges "
        "across every position that was tried. Split such documents, or use a byte-level tokenizer"
    )


def candidates(text: str, before: int) -> Iterator[int]:
    """Yield positions before single spaces in the second half, then any before the end."""
    position, tried = before, 0
    while tried < MOST_TRIED and (position := text.rfind(" ", before // 2, position)) > 0:
        if not text[position - 1].isspace() and not text[position + 1].isspace():
            tried += 1
            yield position
    yield from range(before, max(before - MOST_TRIED, 0), -1)
