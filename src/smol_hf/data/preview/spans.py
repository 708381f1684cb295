"""Token ids and labels → the pieces of text that a person sees, each with what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from tokenizers.decoders import DecodeStream

from smol_hf.modeling.label_loss import IGNORE_INDEX


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
    """The text of each token; tokens that hold only a part of a character come with those that complete it."""
    engine = tokenizer.backend_tokenizer
    stream, waiting = DecodeStream(skip_special_tokens=False), []
    for token_id in ids:
        waiting.append(token_id)
        piece = stream.step(engine, token_id)
        if piece is not None:
            yield piece
            waiting = []
    if waiting:
        yield engine.decode(waiting, skip_special_tokens=False)  # no whole character: shown as the sign for that
