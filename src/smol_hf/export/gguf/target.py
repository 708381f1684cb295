"""The target `gguf`: its files and the commands that run them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.export.gguf.asking import TYPES, answer, facts_of, model_files, variants
from smol_hf.export.gguf.converter import converter_folders, run_converter
from smol_hf.export.gguf.refusals import refuse_unsupported
from smol_hf.export.gguf.source_folder import pre_tokenizer_name, source_folder
from smol_hf.export.target import Target

IMAGE_TYPES = ("f32", "f16")


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Write `model-TYPE.gguf`, and `mmproj-model-TYPE.gguf` for a model with images.

    Raises:
        ConversionError: see `refuse_unsupported` and `run_converter`.
        ValueError: for an unknown type, and a type of images for a text-only model.
    """
    sees_images = "vision_config" in read_json(native / "config.json")
    check_types(options["quantization"], options["mmproj_type"], sees_images)
    refuse_unsupported(native)
    folders = converter_folders(options["llama_cpp"])
    with source_folder(native) as source:
        files = [file_of(source, output / f"model-{options['quantization']}.gguf", options["quantization"], False)]
        if sees_images:
            kind = options["mmproj_type"] or "f16"
            files.append(file_of(source, output / f"mmproj-model-{kind}.gguf", kind, True))
        run_converter(folders, files, pre_tokenizer_name(native))
    if (native / "generation_config.json").is_file():
        shutil.copyfile(native / "generation_config.json", output / "generation_config.json")
    return notes_about(native)


def check_types(quantization: str, images: str | None, sees_images: bool) -> None:
    if quantization not in TYPES:
        raise ValueError(
            f"--quantization {quantization}: choose one of {', '.join(TYPES)}; llama-quantize of llama.cpp makes "
            "other types from an f16 file"
        )
    if images is not None and not sees_images:
        raise ValueError("--mmproj-type has no effect with a text-only model: leave it out")
    if images not in (None, *IMAGE_TYPES):
        raise ValueError(f"--mmproj-type {images}: choose one of {', '.join(IMAGE_TYPES)}")


def file_of(model: Path, output: Path, kind: str, images: bool) -> dict[str, Any]:
    return {"model": str(model), "output": str(output), "type": kind, "images": images}


def notes_about(native: Path) -> list[str]:
    """Return what llama.cpp computes in another way, or does not take from the checkpoint."""
    notes, path, config = [], native / "generation_config.json", read_json(native / "config.json")
    if path.is_file() and read_json(path).get("suppress_tokens"):
        notes.append("llama.cpp does not know suppress_tokens of generation_config.json: it may write such tokens")
    if config.get("model_type") == "llava":
        side = config["vision_config"]["image_size"]
        notes.append(
            f"llama.cpp resizes images in another way: only images of {side} × {side} pixels are seen as in training"
        )
    return notes


def is_written(folder: Path) -> bool:
    return any(folder.glob("model-*.gguf"))


def commands(folder: Path) -> list[str]:
    """Return commands of llama.cpp; for a text-only model also of ollama."""
    (model, *_), images = model_files(folder)
    file = shlex.quote(str(model))
    if images is not None:
        files = f"-m {file} --mmproj {shlex.quote(str(images))}"
        lines = [f"llama-server {files}", f"llama-mtmd-cli {files} --image IMAGE -p QUESTION --temp 0"]
    else:
        _, _, is_chat = facts_of(model)
        lines = [f"llama-server -m {file}"]
        lines.append(f"llama-cli -m {file}" if is_chat else f"llama-completion -m {file} -no-cnv -p TEXT --temp 0")
        line = shlex.quote(f"FROM {model.resolve()}")
        lines.append(f"echo {line} > Modelfile && ollama create NAME -f Modelfile")
    if model.stem in ("model-f32", "model-f16", "model-bf16"):
        smaller = shlex.quote(str(model.with_name("model-q4_k_m.gguf")))
        lines.append(f"llama-quantize {file} {smaller} Q4_K_M")
    return lines


GGUF = Target(
    "gguf",
    "llama.cpp",
    write,
    is_written,
    commands,
    answer,
    options={"quantization": "f16", "mmproj_type": None, "llama_cpp": None},
    variants=variants,
)
