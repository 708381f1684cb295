"""Byte-level BPE as in SmolLM2: any text is a sequence of tokens that decodes to the same text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BYTES = 256
LINE_BREAK, TWO_LINE_BREAKS = "Ċ", "ĊĊ"  # as the byte level writes "\n"
MOST_WORD = 256  # characters: the time that a word takes grows with the square of its length
LONG_WORDS = pre_tokenizers.Split(Regex(rf"\S{{{MOST_WORD}}}|\s{{{MOST_WORD}}}"), "isolated")


def least_vocab_size(special_tokens: Sequence[str]) -> int:
    return len(special_tokens) + BYTES + 1  # the double line break


def build_byte_level_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    named: dict[str, str],
    model_max_length: int,
    min_frequency: int = 0,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`; the same texts give the same tokenizer.

    The ids are: the special tokens in order, the 256 bytes, then the learned merges. So no unknown token exists.
    Digits never merge: "42" is two tokens. A double line break is always a token, since llama.cpp looks it up to write
    an image. The tokenizer has at most `vocab_size` tokens, fewer if the texts give fewer merges. Words of more than
    256 characters are split for the training.

    Special tokens in `texts` are ordinary characters. The tokenizer itself reads them as special tokens unless the
    call says `split_special_tokens=True`.

    Args:
        named: `bos_token`, `eos_token`, `pad_token` → which of the special tokens it is.
        model_max_length: in tokens.
        min_frequency: how often two tokens must be neighbours to be merged.

    Raises:
        ValueError: if `vocab_size` is too small for the special tokens, the bytes and the double line break.
    """
    least = least_vocab_size(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be at least {least}, for {len(special_tokens)} special tokens, {BYTES} bytes and the "
            f"double line break, got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([LONG_WORDS, *words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer = with_double_line_break(tokenizer, vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **named,
        additional_special_tokens=[token for token in special_tokens if token not in named.values()],
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def with_double_line_break(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Return the tokenizer with a token for a double line break, instead of the last merge if it is full."""
    description = json.loads(tokenizer.to_str())
    vocabulary, merges = description["model"]["vocab"], description["model"]["merges"]
    if TWO_LINE_BREAKS in vocabulary:
        return tokenizer
    if len(vocabulary) == vocab_size:
        last = max(vocabulary, key=vocabulary.__getitem__)
        merges[:] = [merge for merge in merges if "".join(merge) != last]
        del vocabulary[last]
    vocabulary[TWO_LINE_BREAKS] = len(vocabulary)
    merges.append([LINE_BREAK, LINE_BREAK])
    return Tokenizer.from_str(json.dumps(description))
