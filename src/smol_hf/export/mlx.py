"""The target `mlx`: the native folder, which mlx-vlm and mlx-lm read on Apple silicon, and their commands."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.export.native import write as write_native
from smol_hf.export.target import Answer, MissingEngineError, Target
from smol_hf.inference.prompts import Prompt

INSTALL = 'pip install mlx-vlm mlx-lm (on Linux also "mlx[cpu]")'


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Copy the native folder. Return what differs in MLX."""
    config = read_json(native / "config.json")
    write_native(native, output, options)
    notes = ["the folder is that of --to native: transformers reads it too"]
    if "vision_config" in config:
        notes.append(
            "do not train with mlx-vlm 0.7.10: its training shows a model of the SmolVLM kind the tokens that it "
            "should predict. Train adapters with smol-hf train --use_peft true, and export again"
        )
    return notes


def is_written(folder: Path) -> bool:
    """Tell if MLX converted the folder. The result of `write` is the native target's."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return "quantization" in config


def commands(folder: Path) -> list[str]:
    place, quantised = shlex.quote(str(folder)), shlex.quote(f"{folder}-4bit")
    bits = "--dtype bfloat16 -q --q-bits 4"
    if sees_images(folder):
        return [
            f'python -m mlx_vlm generate --model {place} --image IMAGE --prompt "PROMPT" --temperature 0',
            f"python -m mlx_vlm convert --hf-path {place} --mlx-path {quantised} {bits}",
        ]
    adapter, fused = shlex.quote(f"{folder}-adapter"), shlex.quote(f"{folder}-fused")
    return [
        f'python -m mlx_lm generate --model {place} --prompt "PROMPT"',
        f"python -m mlx_lm convert --hf-path {place} --mlx-path {quantised} {bits}",
        f"python -m mlx_lm lora --model {place} --train --data FOLDER --num-layers 4 --adapter-path {adapter}",
        f"python -m mlx_lm fuse --model {place} --adapter-path {adapter} --save-path {fused}",
    ]


def sees_images(folder: Path) -> bool:
    return "vision_config" in read_json(folder / "config.json")


def answer(folder: Path, prompts: Sequence[Prompt], new_tokens: int) -> list[Answer]:
    """Answer with mlx-vlm, or a text-only model with mlx-lm."""
    package = "mlx_vlm" if sees_images(folder) else "mlx_lm"
    if importlib.util.find_spec(package) is None:
        raise MissingEngineError(f"{package} is not installed: {INSTALL}")
    if videos := [prompt.where for prompt in prompts if prompt.videos]:
        raise ValueError(f"{videos[0] or 'the prompt'} has a video, which is not compared with MLX: leave it out")
    answers = answers_to_images if package == "mlx_vlm" else answers_to_texts
    return list(map(answer_of, answers(folder, prompts, new_tokens)))


def answers_to_images(folder: Path, prompts: Sequence[Prompt], new_tokens: int):
    """Yield mlx-vlm's steps of each answer, and the tokens. The last step repeats the last token."""
    from mlx_vlm import load, stream_generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = load(str(folder))
    for prompt in prompts:
        text = apply_chat_template(processor, model.config, prompt.text, num_images=len(prompt.images))
        options = {"max_tokens": new_tokens, "temperature": 0.0}
        steps = list(stream_generate(model, processor, text, image=list(prompt.images) or None, **options))
        yield steps, steps[-1].token_ids


def answers_to_texts(folder: Path, prompts: Sequence[Prompt], new_tokens: int):
    """Yield mlx-lm's steps of each answer, and the tokens."""
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder))[:2]
    for prompt in prompts:
        text: Any = prompt.text
        if tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        steps = list(stream_generate(model, tokenizer, text, max_tokens=new_tokens))
        yield steps, [step.token for step in steps]


def answer_of(result) -> Answer:
    steps, tokens = result
    first = steps[0]
    logits = None if first.logprobs is None else np.array(first.logprobs.tolist(), dtype=np.float32).ravel()
    return Answer([int(token) for token in tokens], first.prompt_tokens, logits)


MLX = Target("mlx", "MLX", write, is_written, commands, answer)
