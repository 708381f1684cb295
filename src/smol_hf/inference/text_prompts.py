"""Texts for a language model → token ids, in which no text of a user becomes a special token."""

from __future__ import annotations

from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from smol_hf.modeling.chat_encoding import ChatEncoder


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
        ValueError: when there is no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this language model has no chat template: it continues text (smol-hf generate)")
    texts = [content_text(message["content"]) for message in messages]
    # As in `chat_encoding`: the template is rendered with a placeholder for each text.
    shells = [{"role": message["role"], "content": f"\ue000{n}\ue001"} for n, message in enumerate(messages)]
    rendered = tokenizer.apply_chat_template(shells, tokenize=False, add_generation_prompt=True)
    encoder = encoder_of(tokenizer)
    return encoder.encode_pieces(encoder.split(rendered, ()), texts, ())[0]


def content_text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@lru_cache(maxsize=2)
def encoder_of(tokenizer: PreTrainedTokenizerBase) -> ChatEncoder:
    return ChatEncoder(tokenizer, None, set(tokenizer.all_special_tokens))
