"""Texts for a language model → token ids, in which no text of a user becomes a special token."""

from __future__ import annotations

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from smol_hf.text.chat import TextChat


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text to be continued, after what the tokenizer puts before every text.

    An empty text is the beginning of a document: the token that begins one, or else the one that ends the last.

    Raises:
        ValueError: for an empty text where the tokenizer has neither.
    """
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    if ids:
        return ids
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    raise ValueError("the prompt is empty, and the tokenizer has no token that begins a text: write something")


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """The tokens of a conversation by the tokenizer's own chat template, up to where the assistant's turn begins.

    Args:
        messages: `role` and `content`, a text or a list of parts that are texts.

    Raises:
        ValueError: when there is no chat template, or it refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this language model has no chat template: it continues text (smol-hf generate)")
    return chat_of(tokenizer, tokenizer.get_chat_template()).prompt_ids(messages)


@lru_cache(maxsize=2)
def chat_of(tokenizer: PreTrainedTokenizerBase, template: str) -> TextChat:
    """`template`: the tokenizer's; with another one it is another chat."""
    return TextChat(tokenizer)
