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


def unknown_token_id(tokenizer) -> int | None:
    """Return the id that the tokenizer writes for a text that it does not know; None if it knows every text.

    Many configurations name an unknown token that is never written: a byte-level tokenizer knows every byte.
    """
    if not getattr(tokenizer, "is_fast", False):
        found = tokenizer.unk_token_id
    else:
        engine = tokenizer.backend_tokenizer.model
        token = getattr(engine, "unk_token", None)
        found = getattr(engine, "unk_id", None) if token is None else tokenizer.backend_tokenizer.token_to_id(token)
        found = None if getattr(engine, "byte_fallback", False) else found
    # A label of the token that ends a text would look the same.
    return None if found in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) else found


def unknown_texts(tokenizer, text: str) -> list[str]:
    """Return the characters or words of a text that the tokenizer does not know; of a slow tokenizer none."""
    if not getattr(tokenizer, "is_fast", False) or (unknown := unknown_token_id(tokenizer)) is None:
        return []
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return [text[start:end] for each, (start, end) in zip(encoding.ids, encoding.offsets) if each == unknown]


def token_ids(value: int | list[int] | None) -> list[int]:
    """Return the ids of an `eos_token_id`, which is one id, a list of ids, or None."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)
