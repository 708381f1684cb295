"""Access to the tokenizer of a model: of its processor, or for a text-only model the tokenizer itself."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def tokenizer_of(processor) -> PreTrainedTokenizerBase:
    """Return a processor's tokenizer, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def is_language_model(processor) -> bool:
    """Return True for a tokenizer, which belongs to a text-only model."""
    return isinstance(processor, PreTrainedTokenizerBase)


def padding_token_id(tokenizer) -> int:
    """Return the id that fills rows up. Any token serves: the mask hides it, and it has no label."""
    return next(each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if each is not None)


def token_ids(value: int | list[int] | None) -> list[int]:
    """Return the ids of an `eos_token_id`, which is one id, a list of ids, or None."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)
