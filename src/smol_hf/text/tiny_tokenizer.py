"""A byte-level BPE tokenizer of a few hundred tokens, with the special tokens of SmolVLM2, trained in a moment."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

from smol_hf.text.byte_level_bpe import build_byte_level_tokenizer, least_vocab_size

_LARGEST_GRID = 6  # tiles per row and per column for which there is a token, as in SmolVLM2

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, _LARGEST_GRID + 1) for col in range(1, _LARGEST_GRID + 1)),
)

MINIMUM_VOCAB_SIZE = least_vocab_size(SPECIAL_TOKENS)


def build_tiny_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 384, model_max_length: int = 8192
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`, see `build_byte_level_tokenizer`: the first ids are the 43 `SPECIAL_TOKENS`.

    Raises ValueError if `vocab_size` is less than 300: special tokens, bytes and the double line break.
    """
    return build_byte_level_tokenizer(
        texts,
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        named={"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"},
        model_max_length=model_max_length,
    )
