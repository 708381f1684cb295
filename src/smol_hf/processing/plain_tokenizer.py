"""Tokenization of plain text: no characters of a text become a special token."""

import json


def plain_tokenizer(tokenizer, control_tokens):
    """A copy of the fast tokenizer's engine that reads special tokens in a text as ordinary characters.

    `control_tokens` are treated as special even where the tokenizer's file does not mark them so.
    """
    engine = tokenizer.backend_tokenizer
    description = json.loads(engine.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in control_tokens
    description["post_processor"] = None
    description["truncation"] = description["padding"] = None
    plain = type(engine).from_str(json.dumps(description))
    plain.encode_special_tokens = True
    return plain


def vocabulary_key(tokenizer):
    """Parts of a tokenizer on which a `ChatEncoder` depends, to compare with what they are later."""
    added = [(number, str(token), token.special) for number, token in tokenizer.added_tokens_decoder.items()]
    return tokenizer, added, tokenizer.special_tokens_map
