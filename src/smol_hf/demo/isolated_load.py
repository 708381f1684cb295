"""Load a checkpoint with only transformers and answer questions.

The demo runs this file by its path in a new process, in which smol_hf cannot be imported:

    python isolated_load.py CHECKPOINT QUESTIONS.json ANSWERS.json

QUESTIONS.json is a list of prompts. A prompt is a list of {"type": "text", "text": …} and {"type": "image", "image":
base64}. ANSWERS.json becomes the list of answers.
"""

import base64
import io
import json
import sys
from typing import Any

if __name__ == "__main__":
    # None makes every later `import smol_hf` fail, as if the package were not installed.
    sys.modules["smol_hf"] = None  # pyright: ignore[reportArgumentType]

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

BATCH_SIZE = 50


@torch.inference_mode()
def main(checkpoint, questions_path, answers_path):
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto", trust_remote_code=True)
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    with open(questions_path, encoding="utf-8") as file:
        questions = json.load(file)
    answers = []
    for start in range(0, len(questions), BATCH_SIZE):
        conversations = [messages_of(prompt) for prompt in questions[start : start + BATCH_SIZE]]
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device)
        tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]
        sys.stdout.write(f"answered {len(answers)} of {len(questions)} prompts\n")
        sys.stdout.flush()
    with open(answers_path, "w", encoding="utf-8") as file:
        json.dump(answers, file)


def messages_of(prompt):
    content = [{**part, "image": opened(part["image"])} if part["type"] == "image" else part for part in prompt]
    return [{"role": "user", "content": content}]


def opened(image):
    return Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
