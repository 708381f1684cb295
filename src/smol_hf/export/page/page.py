"""The target `page`: a static web page that runs the model in the browser, with every file in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, FileSystemLoader

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.export.onnx import target as onnx
from smol_hf.export.onnx.precisions import SUFFIXES
from smol_hf.export.page.transformers_js import PACKAGES, engine_files
from smol_hf.export.target import Answer
from smol_hf.inference.examples import as_settings, examples_of
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS
from smol_hf.support.resources import resource_path

MODEL, ENGINE, SETTINGS = "model", "transformers.js", "settings.json"
STATIC = ("page.css", "page.js", "worker.js")
UNLIMITED = 1_000_000_000  # positions of a model that states no limit
OPTIONS = {**onnx.OPTIONS, "transformers_js": None, "examples": None, "title": None}


def write(native: Path, output: Path, options: dict[str, Any]) -> list[str]:
    """Write the page, the graphs, transformers.js and the examples.

    Raises:
        ConversionError: see `engine_files` and `write_folder`.
        FileNotFoundError, SampleError: if the file of examples cannot be read.
    """
    engine = engine_files(options["transformers_js"])  # before the graphs, which take longer
    kind = kind_of(native)
    examples = examples_of(options["checkpoint"], shows_images=kind == "image", file=options["examples"])
    (output / MODEL).mkdir()
    notes = onnx.write(native, output / MODEL, options)
    (output / ENGINE).mkdir()
    for path in engine:
        shutil.copyfile(path, output / ENGINE / path.name)
    entries, images = as_settings(examples.found)
    for name, content in images.items():
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(content)
    title = options["title"] or "A small model"
    write_json(output / SETTINGS, settings_of(output / MODEL, kind, entries))
    write_templates(output, title=title, kind=kind)
    return [*notes, examples.note]


def kind_of(folder: Path) -> str:
    """Return `image`, `chat` or `text`: what a visitor can send."""
    if "vision_config" in read_json(folder / "config.json"):
        return "image"
    tokenizer = folder / "tokenizer_config.json"
    has_template = (folder / "chat_template.jinja").is_file() or (
        tokenizer.is_file() and "chat_template" in read_json(tokenizer)
    )
    return "chat" if has_template else "text"


def settings_of(model: Path, kind: str, examples: list[dict]) -> dict[str, Any]:
    """Return what the page's programs need to know about a model.

    `sizes` are the bytes of its graphs by precision, `positions` the length that it reads, `special_tokens` the
    markers that a visitor's text must not contain, and `video` the sampling of frames.
    """
    config = read_json(model / "config.json")
    text = config.get("text_config", config)
    positions = text.get("max_position_embeddings") or text.get("n_positions") or UNLIMITED
    tokens = json.loads((model / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    settings = {
        "kind": kind,
        "sizes": graph_sizes(model / "onnx"),
        "positions": positions,
        "new_tokens": DEFAULT_MAX_NEW_TOKENS,
        "special_tokens": [token["content"] for token in tokens if token.get("special")],
        "examples": examples,
    }
    if kind == "image":
        sampling = read_json(model / "processor_config.json").get("video_processor", {}).get("video_sampling", {})
        settings["video"] = {"fps": sampling.get("fps", 1.0), "max_frames": sampling.get("max_frames", 64)}
    return settings


def graph_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of all graphs of each precision."""
    quantized = tuple(suffix for suffix in SUFFIXES.values() if suffix)
    sizes: dict[str, int] = {}
    for name, suffix in SUFFIXES.items():
        files = [path for path in folder.glob(f"*{suffix}.onnx") if suffix or not path.stem.endswith(quantized)]
        if files:
            sizes[name] = sum(path.stat().st_size for path in files)
    return sizes


def write_templates(output: Path, *, title: str, kind: str) -> None:
    templates = resource_path("hub_templates", "page")
    for name in STATIC:
        shutil.copyfile(templates / name, output / name)
    environment = Environment(loader=FileSystemLoader(templates), autoescape=True, trim_blocks=True)
    page = environment.get_template("index.html.jinja").render(title=title, kind=kind)
    (output / "index.html").write_text(page, encoding="utf-8")
    notice = environment.overlay(autoescape=False).get_template("NOTICE.txt.jinja").render(packages=PACKAGES)
    (output / ENGINE / "NOTICE.txt").write_text(notice, encoding="utf-8")


def is_written(folder: Path) -> bool:
    return (folder / "index.html").is_file() and onnx.is_written(folder / MODEL)


def commands(folder: Path) -> list[str]:
    return [f"python -m http.server -d {quote(str(folder))} 8000"]


def answer(folder: Path, encoded: Sequence[Mapping[str, Any]], new_tokens: int) -> list[Answer]:
    """Answer with onnxruntime in Python, which runs the graphs of the page."""
    return onnx.answer(folder / MODEL, encoded, new_tokens)


def variants(folder: Path):
    """Return the answers of the other precisions."""
    found = onnx.variants(folder / MODEL)
    return {
        name: lambda folder, encoded, number, call=call: call(folder / MODEL, encoded, number)
        for name, call in found.items()
    }


PAGE = replace(
    onnx.ONNX,
    name="page",
    write=write,
    is_written=is_written,
    commands=commands,
    answer_encoded=answer,
    options=OPTIONS,
    variants=variants,
)
