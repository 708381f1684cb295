"""Runs on whichever transformers there is: `python load_native.py FOLDER INPUTS RESULTS`."""

import json
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer


def main(folder, inputs_path, results_path):
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = load_file(inputs_path)
    with torch.no_grad():
        logits = model(**inputs).logits
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    facts = {"class": type(model).__name__, "prompt": prompt, "ids": tokenizer(prompt)["input_ids"]}
    save_file({"logits": logits.contiguous()}, results_path)
    with open(f"{results_path}.json", "w") as file:
        json.dump(facts, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
