"""Token ids and labels → readable pieces of text with their kind and training mark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from smol_hf.modeling.label_loss import IGNORE_INDEX

HALF_A_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind: `text`, `special` (one token) or `image` (places of image features).

    Text has a piece for each token, or for the tokens of one character.
    """

    kind: str
    trained: bool
    tokens: int
    pieces: tuple[str, ...]


def spans_of(processor, input_ids: list[int], labels: list[int]) -> list[Span]:
    """Return the spans of a sample, in order. Text that only looks like a special token is text."""
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
            spans.append(Span(name, trained, len(ids), tuple(token_texts(processor.tokenizer, ids))))
    return spans


def token_texts(tokenizer, ids: list[int]) -> Iterator[str]:
    """Yield the text of each token. Tokens of a partial character come with those that complete it.

    A token is decoded after its predecessor, since some decoders write spaces only between words. (DecodeStream of
    tokenizers does the same, but raises for bytes that are not a character.)
    """
    decode = tokenizer.backend_tokenizer.decode
    before, start = 0, 0  # starts of the last and the next piece
    for end in range(1, len(ids) + 1):
        known = decode(ids[before:start], skip_special_tokens=False)
        text = decode(ids[before:end], skip_special_tokens=False)
        if len(text) > len(known) and (end == len(ids) or not text.endswith(HALF_A_CHARACTER)):
            yield text[len(known) :]
            before, start = start, end
