"""The tokenizer of a model: a processor has one, and a text-only model has only a tokenizer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def tokenizer_of(processor) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a processor, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def is_language_model(processor) -> bool:
    """Whether a model with this processor is text-only: the processor is a tokenizer."""
    return isinstance(processor, PreTrainedTokenizerBase)


def padding_token_id(tokenizer) -> int:
    """Return the id that fills rows up. Any token serves: the mask hides it, and it has no label."""
    return next(each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if each is not None)
