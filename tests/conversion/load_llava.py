"""Runs on whichever transformers there is: `python load_llava.py RESULTS FOLDER…`: the logits of each folder."""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration


def main(results, *folders):
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    logits = {}
    for folder in map(Path, folders):
        model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
        with torch.no_grad():
            logits[folder.name] = model(**load_file(folder / "inputs")).logits.contiguous()
    save_file(logits, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
