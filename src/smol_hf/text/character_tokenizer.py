"""A tokenizer whose tokens are single characters, as nanoGPT's data set shakespeare_char has it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN, END = "<unk>", "<|endoftext|>"


def build_character_tokenizer(characters: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer in which each character has its position as its id.

    Two special tokens follow: one for every other character, and one that ends and pads texts.
    """
    vocabulary = {token: number for number, token in enumerate([*characters, UNKNOWN, END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
