"""The target `onnx`: graphs for transformers.js and onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.export.onnx.answering import answer_with, precisions_in
from smol_hf.export.onnx.folder import write_folder
from smol_hf.export.onnx.precisions import DEFAULT, check_precisions
from smol_hf.export.target import Answer, Target

OPTIONS = {"precisions": DEFAULT}


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Write the graphs and configurations. Raise ConversionError; see `write_folder`."""
    write_folder(native, output, check_precisions(options["precisions"]))
    return []


def is_written(folder: Path) -> bool:
    return (folder / "config.json").is_file() and bool(precisions_in(folder))


def commands(folder: Path) -> list[str]:
    """Return the installation of transformers.js, and the JavaScript that loads the model."""
    sees_images = "vision_config" in read_json(folder / "config.json")
    name = "AutoModelForImageTextToText" if sees_images else "AutoModelForCausalLM"
    written, best = partial(json.dumps, ensure_ascii=False), precisions_in(folder)[0]
    return [
        "npm install @huggingface/transformers",
        f"env.localModelPath = {written(str(folder.parent))}; env.allowRemoteModels = false  // JavaScript",
        f"{name}.from_pretrained({written(folder.name)}, {{dtype: '{best}'}})",
    ]


def answer(folder: Path, encoded: Sequence[Mapping[str, Any]], new_tokens: int) -> list[Answer]:
    """Answer with the most exact precision in the folder."""
    return answer_with(precisions_in(folder)[0], folder, encoded, new_tokens)


def variants(folder: Path):
    """Return the answers of the other precisions."""
    return {name: partial(answer_with, name) for name in precisions_in(folder)[1:]}


ONNX = Target(
    "onnx",
    "onnxruntime",
    write,
    is_written,
    commands,
    answer_encoded=answer,
    options=OPTIONS,
    variants=variants,
)
