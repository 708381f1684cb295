"""Token ids and labels → the pieces of text that a person sees, each with what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from smol_hf.modeling.label_loss import IGNORE_INDEX

HALF_A_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind: `text` (a piece for each token, or for those that make up one character),
    `special` (one token that the template or a picture wrote) or `image` (places of image features)."""

    kind: str
    trained: bool
    tokens: int
    pieces: tuple[str, ...]


def spans_of(processor, input_ids: list[int], labels: list[int]) -> list[Span]:
    """The spans of a sample, in order. Text that only looks like a special token is text."""
    special = {token_id: token for token, token_id in processor.encoder.special_ids.items()}

    def kind(token: tuple[int, int]) -> tuple[str, bool]:
        token_id, label = token
        name = "image" if token_id == processor.image_token_id else "special" if token_id in special else "text"
        return name, label != IGNORE_INDEX

    spans = []
    for (name, trained), group in groupby(zip(input_ids, labels), kind):
        ids = [token_id for token_id, _ in group]
        if name == "special":
            spans += [Span(name, trained, 1, (special[token_id],)) for token_id in ids]
        elif name == "image":
            spans.append(Span(name, trained, len(ids), (special.get(ids[0], "<image>"),)))
        else:
            spans.append(Span(name, trained, len(ids), tuple(pieces_of(processor.tokenizer, ids))))
    return spans


def pieces_of(tokenizer, ids: list[int]) -> Iterator[str]:
    """The text of each token; tokens that hold only a part of a character come with those that complete it.

    A token is decoded after the one before it, since some decoders write a word's space only between words. (The
    DecodeStream of tokenizers does the same and raises where bytes make no character.)
    """
    decode = tokenizer.backend_tokenizer.decode
    before, start = 0, 0  # where the last piece began, and where the next one begins
    for end in range(1, len(ids) + 1):
        known = decode(ids[before:start], skip_special_tokens=False)
        text = decode(ids[before:end], skip_special_tokens=False)
        if len(text) > len(known) and (end == len(ids) or not text.endswith(HALF_A_CHARACTER)):
            yield text[len(known) :]
            before, start = start, end
