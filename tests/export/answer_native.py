"""Runs on whichever transformers there is: `python answer_native.py FOLDER PROMPTS PIXELS RESULTS`.

PIXELS is a file of `pixel_values` (prompts, 3, side, side) for the model: releases of Pillow resize differently.
RESULTS.json receives the ids of each prompt and of its greedy answer; RESULTS the logits of the first new token, and
the `pixel_values` of this processor.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

NEW_TOKENS = 24


def main(folder, prompts, pixels, results):
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    answers, logits, own_pixels = [], [], []
    given = load_file(pixels)["pixel_values"]
    for line, tile in zip(Path(prompts).read_text().splitlines(), given):
        row = json.loads(line)
        image = Image.open(Path(prompts).parent / row["image"])
        content = [{"type": "image"}, {"type": "text", "text": row["prompt"]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=text, images=[image], return_tensors="pt")
        own_pixels.append(inputs["pixel_values"])
        inputs["pixel_values"] = tile.unsqueeze(0)
        length = inputs["input_ids"].shape[1]
        options = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "return_dict_in_generate": True}
        output = model.generate(**inputs, **options, output_logits=True)
        answers.append([inputs["input_ids"][0].tolist(), output.sequences[0, length:].tolist()])
        logits.append(output.logits[0][0].float())
    save_file({"logits": torch.stack(logits), "pixel_values": torch.cat(own_pixels)}, results)
    facts = {"class": type(model).__name__, "answers": answers}
    Path(f"{results}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
