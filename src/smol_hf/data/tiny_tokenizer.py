"""A byte-level BPE tokenizer of a few hundred tokens, with the special tokens of SmolVLM2, trained in a moment."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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

_BYTES = 256
MINIMUM_VOCAB_SIZE = len(SPECIAL_TOKENS) + _BYTES


def build_tiny_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 384, model_max_length: int = 8192
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`; the same texts give the same tokenizer.

    The ids are: the 43 `SPECIAL_TOKENS` in their order, the 256 bytes, then the learned merges. All bytes are there,
    so that any text comes back unchanged and no unknown token exists. Digits never merge: "42" is two tokens.
    The tokenizer holds at most `vocab_size` tokens, fewer when the texts do not give that many merges: read its
    size with `len(tokenizer)`. `model_max_length` is in tokens.

    As everywhere in transformers, the text of a special token is read as that token unless the call says
    `split_special_tokens=True`.

    Raises ValueError when `vocab_size` has no room for the special tokens and the bytes (299).
    """
    if vocab_size < MINIMUM_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size must be at least {MINIMUM_VOCAB_SIZE}, for {len(SPECIAL_TOKENS)} special tokens and "
            f"{_BYTES} bytes, got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    named = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **named,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in named.values()],
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
