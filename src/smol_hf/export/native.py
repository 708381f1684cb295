"""The target `native`: a folder that transformers loads with its own classes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.registry import OURS
from smol_hf.export.target import Answer, MissingEngineError, Target
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Copy the native folder."""
    shutil.copytree(native, output, dirs_exist_ok=True)
    return []


def is_written(folder: Path) -> bool:
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") not in OURS


@torch.inference_mode()
def answer(folder: Path, prompts: Sequence[Prompt], new_tokens: int) -> list[Answer]:
    """Answer with transformers' own classes."""
    sees_images = "vision_config" in read_json(folder / "config.json")
    try:
        processor = (AutoProcessor if sees_images else AutoTokenizer).from_pretrained(folder)
    except ImportError as error:
        missing = [name for name in ("num2words", "torchvision") if name in str(error)] or [str(error).strip()]
        raise MissingEngineError(f"the processor needs a missing package: {missing[0]}") from error
    auto_class = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
    model = auto_class.from_pretrained(folder, dtype=torch.float32).eval()
    generator = Generator(model, processor, Sampling())
    answers = []
    for prompt in prompts:
        inputs = generator.inputs([prompt])
        length = inputs["input_ids"].shape[1]
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=new_tokens, output_logits=True, return_dict_in_generate=True
        )
        tokens = output.sequences[0, length:].tolist()
        answers.append(Answer(tokens, length, output.logits[0][0].float().numpy()))
    return answers


def commands(folder: Path) -> list[str]:
    return [f"transformers serve {folder}"]


NATIVE = Target("native", "transformers' own classes", write, is_written, commands, answer)
