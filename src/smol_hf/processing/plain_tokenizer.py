"""Two forms of a tokenizer: one that reads no special tokens in a text, and files that each transformers reads."""

import json


def plain_tokenizer(tokenizer, control_tokens):
    """Copy the engine of a fast tokenizer, so that it reads special tokens in a text as ordinary characters.

    `control_tokens` are special even if the tokenizer's file does not mark them so.
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


def write_portable_tokenizer_config(folder):
    """Rewrite a saved `tokenizer_config.json` in the form that transformers 4.57 and 5.x read."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["model_input_names"] = ["input_ids", "attention_mask"]
    config["padding_side"] = "left"  # answers of a batch begin in the same column; transformers 5 would not save it
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
