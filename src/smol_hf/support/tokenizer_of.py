"""What comes beside a model: a processor, which has a tokenizer, or of a language model alone the tokenizer itself."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def tokenizer_of(processor) -> PreTrainedTokenizerBase:
    """A processor's tokenizer; a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def is_language_model(processor) -> bool:
    """Whether what comes beside the model is a tokenizer: no picture can be shown."""
    return isinstance(processor, PreTrainedTokenizerBase)
