"""The target `native`: a folder that transformers loads with its own classes."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from smol_hf.auto import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.registry import OURS
from smol_hf.export.target import Answer, MissingEngineError, Target
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling
from smol_hf.support.formatting import one_line


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Move the files of the native folder."""
    for path in native.iterdir():
        shutil.move(path, output / path.name)
    return []


def is_written(folder: Path) -> bool:
    return (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") not in OURS


def answer(folder: Path, prompts: Sequence[Prompt], new_tokens: int) -> list[Answer]:
    """Answer with transformers' own classes and processor."""
    try:
        processor = (AutoProcessor if sees_images(folder) else AutoTokenizer).from_pretrained(folder)
    except ImportError as error:
        missing = [name for name in ("num2words", "torchvision") if name in str(error).lower()] or [one_line(error)]
        raise MissingEngineError(f"the processor needs a missing package: {missing[0]}") from error
    model = load(folder)
    generator = Generator(model, processor, Sampling())
    return [generated(model, generator.inputs([prompt]), new_tokens) for prompt in prompts]


def answer_encoded(folder: Path, inputs: Sequence[dict[str, torch.Tensor]], new_tokens: int) -> list[Answer]:
    """Answer prompts that our processor encoded, one row each."""
    model = load(folder)
    return [
        replace(generated(model, native_inputs(row, folder, model.config), new_tokens), prompt_tokens=None)
        for row in inputs
    ]


def native_inputs(row: dict[str, torch.Tensor], folder: Path, config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Take the arguments of the native class: LLaVA reads tiles (tiles, 3, side, side), without the batch."""
    names = ("input_ids", "attention_mask", "pixel_values")
    inputs = {name: row[name] for name in names if row.get(name) is not None}
    if "pixel_values" in inputs:
        tiles = normalize(inputs["pixel_values"], folder)
        inputs["pixel_values"] = tiles.flatten(0, 1) if config.model_type == "llava" else tiles
    return inputs


def normalize(tiles: torch.Tensor, folder: Path) -> torch.Tensor:
    """Normalise uint8 tiles, (1, tiles, 3, side, side), with the numbers of the folder's image processor."""
    settings = read_json(folder / "preprocessor_config.json")
    mean, deviation = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return (tiles.float() * settings.get("rescale_factor", 1 / 255) - mean) / deviation


def sees_images(folder: Path) -> bool:
    return "vision_config" in read_json(folder / "config.json")


def load(folder: Path) -> Any:
    auto_class = AutoModelForImageTextToText if sees_images(folder) else AutoModelForCausalLM
    return auto_class.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def generated(model, inputs, new_tokens: int) -> Answer:
    """Return the greedy answer to one row of inputs."""
    length = inputs["input_ids"].shape[1]
    output = model.generate(
        **inputs, do_sample=False, max_new_tokens=new_tokens, output_logits=True, return_dict_in_generate=True
    )
    return Answer(output.sequences[0, length:].tolist(), length, output.logits[0][0].float().numpy())


def commands(folder: Path) -> list[str]:
    return [f"transformers serve {shlex.quote(str(folder))}"]


NATIVE = Target("native", "transformers' own classes", write, is_written, commands, answer, answer_encoded)
