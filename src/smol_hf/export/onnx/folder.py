"""Write a native folder as transformers.js reads it: graphs in `onnx/`, configurations next to it."""

from __future__ import annotations

import gc
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from smol_hf.auto import AutoModelForCausalLM, AutoModelForImageTextToText
from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.onnx.graphs import image_graphs, text_graphs
from smol_hf.export.onnx.precisions import QUANTIZERS, SUFFIXES, file_of

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
IMAGE_MODELS = ("smolvlm", "idefics3")
TEXT_MODELS = ("llama", "smollm3", "gpt2")
LARGEST = 2_000_000_000  # bytes: a graph in one file must be smaller than 2 GiB
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL = ("generation_config.json", "chat_template.jinja", "processor_config.json", "preprocessor_config.json")


def write_folder(native: Path, output: Path, precisions: Sequence[str]) -> None:
    """Write the graphs of `native` in each precision, and its JSON files.

    Raises:
        ConversionError: for a missing package, an unsupported model or tokenizer, and a graph that is too large.
    """
    refuse_missing_packages()
    config = read_json(native / "config.json")
    kind = config.get("model_type")
    refuse_unsupported(native, kind)
    auto_class, graphs = (
        (AutoModelForImageTextToText, image_graphs) if kind in IMAGE_MODELS else (AutoModelForCausalLM, text_graphs)
    )
    # Eager attention is plain matrix products, which every execution provider of onnxruntime has.
    model = auto_class.from_pretrained(native, dtype=torch.float32, attn_implementation="eager").eval()
    refuse_large(model)
    builders = graphs(model)
    del model
    written = []
    while builders:  # each builder holds the parts of the model that its graph needs
        graph = builders.pop(0)()
        written.append(file_of(output, graph.name, "fp32"))
        written[-1].parent.mkdir(exist_ok=True)
        graph.save(written[-1])
        del graph
        gc.collect()  # the traced program holds the weights in cycles
    for exact in written:  # without the model in memory
        for precision in precisions:
            if precision in QUANTIZERS:
                QUANTIZERS[precision](exact, exact.with_name(f"{exact.stem}{SUFFIXES[precision]}.onnx"))
                gc.collect()
        if "fp32" not in precisions:
            exact.unlink()
    write_settings(native, output)


def refuse_missing_packages() -> None:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ConversionError(f'--to onnx needs the package {name}: pip install "smol_hf[onnx]"')


def refuse_unsupported(native: Path, kind: str | None) -> None:
    if kind not in (*IMAGE_MODELS, *TEXT_MODELS):
        raise ConversionError(
            f"--to onnx does not support a {kind} model: choose a checkpoint of the SmolVLM, Idefics3, Llama, SmolLM3 "
            "or GPT-2 kind (connector pixel_shuffle), or export it with --to native"
        )
    for name in NEEDED:
        if not (native / name).is_file():
            raise ConversionError(f"--to onnx: the checkpoint has no {name}, which transformers.js needs: add it")


def refuse_large(model) -> None:
    """Refuse a model whose decoder does not fit into one file, at the size of its weights in float32."""
    decoder = getattr(getattr(model, "model", None), "text_model", None)
    head = model.get_output_embeddings()
    parts = [model] if decoder is None else [decoder, head]
    size = 4 * sum(each.numel() for part in parts for each in part.parameters())
    if size >= LARGEST:
        raise ConversionError(
            f"--to onnx: the decoder has {size / 1e9:.1f} GB in float32, and a graph in one file holds less than "
            f"{LARGEST / 1e9:.0f} GB: choose a smaller model, or export it with --to gguf"
        )


def write_settings(native: Path, output: Path) -> None:
    """Copy the JSON files, and write the chat template where every release of transformers.js reads it."""
    for name in (*NEEDED, *OPTIONAL):
        if (native / name).is_file():
            shutil.copyfile(native / name, output / name)
    template = native / "chat_template.jinja"
    if template.is_file():
        path = output / "tokenizer_config.json"
        write_json(path, read_json(path) | {"chat_template": template.read_text(encoding="utf-8")})
