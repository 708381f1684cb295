"""Load a checkpoint with only transformers, and write the results of the model.

`smol-hf check` runs this file by its path in an isolated process, in which smol_hf cannot be imported:

    python isolated_check.py CHECKPOINT INPUTS RESULTS

INPUTS is a safetensors file of the model's arguments. RESULTS receives `logits` and greedy `tokens`.
"""

import sys

if __name__ == "__main__":
    # None makes every later `import smol_hf` fail, as if the package were not installed.
    sys.modules["smol_hf"] = None  # pyright: ignore[reportArgumentType]

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

NEW_TOKENS = 8


def compute(model, inputs):
    """Compute logits and greedy tokens; end tokens are not allowed, so that every answer has the same length."""
    with torch.inference_mode():
        logits = model(**inputs).logits
        tokens = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
    return {"logits": logits.contiguous(), "tokens": tokens[:, inputs["input_ids"].shape[1] :].contiguous()}


def main(checkpoint, inputs_path, results_path):
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    auto_class = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto_class.from_pretrained(checkpoint, dtype=torch.float32, trust_remote_code=True).eval()
    save_file(compute(model, load_file(inputs_path)), results_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
