"""The configuration of a saved tokenizer, in the form that transformers 4.57 reads as well as 5.x."""

import json


def write_portable_tokenizer_config(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["model_input_names"] = ["input_ids", "attention_mask"]
    config["padding_side"] = "left"  # answers of a batch begin in the same column; transformers 5 would not save it
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
