"""Access to the tokenizer of a model: of its processor, or for a text-only model the tokenizer itself."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

DOCUMENT_TOKENS = "document_tokens"  # key of tokenizer_config.json


def tokenizer_of(processor) -> PreTrainedTokenizerBase:
    """Return a processor's tokenizer, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def is_language_model(processor) -> bool:
    """Return True for a tokenizer, which belongs to a text-only model."""
    return isinstance(processor, PreTrainedTokenizerBase)


def document_tokens(tokenizer) -> tuple[int, int]:
    """Return the ids that begin and end a plain text: those of pretraining, see `keep_document_tokens`.

    Raises:
        ValueError: without a token that ends a text.
    """
    if (kept := tokenizer.init_kwargs.get(DOCUMENT_TOKENS)) is not None:
        begin, end = tokenizer.convert_tokens_to_ids(kept)
        return begin, end
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no eos_token to end a document: set one and save the tokenizer again")
    return end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end


def keep_document_tokens(tokenizer) -> None:
    """Note in the tokenizer's file which tokens begin and end a plain text, before a chat gets other ones."""
    if DOCUMENT_TOKENS not in tokenizer.init_kwargs and tokenizer.eos_token_id is not None:
        tokenizer.init_kwargs[DOCUMENT_TOKENS] = tokenizer.convert_ids_to_tokens(list(document_tokens(tokenizer)))


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
