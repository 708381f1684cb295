"""Runs in a fresh process that cannot import smol_hf: loads a checkpoint as anyone would, and writes what it computes.

    python check_stranger.py CHECKPOINT INPUTS RESULTS

INPUTS is a safetensors file of the model's arguments. RESULTS receives `logits` and greedy `tokens`.
"""

import sys

if __name__ == "__main__":
    sys.modules["smol_hf"] = None  # from here on `import smol_hf` fails, as it does where it is not installed

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

NEW_TOKENS = 8


def compute(model, inputs):
    """Logits and greedy tokens in float32; no answer ends early, so that there is much to compare."""
    with torch.inference_mode():
        logits = model(**inputs).logits
        tokens = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
    return {"logits": logits.contiguous(), "tokens": tokens[:, inputs["input_ids"].shape[1] :].contiguous()}


def load(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    auto_class = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return auto_class.from_pretrained(checkpoint, dtype=torch.float32, trust_remote_code=True).eval()


def main(checkpoint, inputs_path, results_path):
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    save_file(compute(load(checkpoint), load_file(inputs_path)), results_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
