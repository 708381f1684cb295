"""Encode texts for a language model; user text never becomes a special token."""

from __future__ import annotations

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from smol_hf.text.chat import TextChat


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text to be continued. An empty text becomes the start token, or the end token without one.

    Raises:
        ValueError: for an empty text if the tokenizer has neither token.
    """
    ids: list = list(tokenizer(text, split_special_tokens=True)["input_ids"])
    ids = ids or [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if not ids:
        raise ValueError("the prompt is empty, and the tokenizer has no start token: write a prompt")
    return ids


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Encode a conversation and the generation prompt by the tokenizer's chat template.

    Args:
        messages: `role` and `content` (a text, or a list of text parts).

    Raises:
        ValueError: if the chat template is missing, or refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this language model has no chat template, it only continues text: use smol-hf generate")
    return chat_of(tokenizer, tokenizer.get_chat_template()).prompt_ids(messages)


@lru_cache(maxsize=2)
def chat_of(tokenizer: PreTrainedTokenizerBase, template: str) -> TextChat:
    """Cache the chat of a tokenizer with its current `template`."""
    return TextChat(tokenizer)
