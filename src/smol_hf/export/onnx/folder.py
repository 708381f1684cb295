"""Write a native folder as transformers.js reads it: graphs in `onnx/`, configurations next to it."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.onnx.precisions import QUANTIZERS, SUFFIXES
from smol_hf.export.onnx.tracing import trace_apart

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
IMAGE_MODELS = ("smolvlm", "idefics3")
TEXT_MODELS = ("llama", "smollm3", "gpt2")
DECODER_OF_IMAGE_MODELS = ("model.text_model", "lm_head")
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
    refuse_unsupported(native, config.get("model_type"))
    refuse_large(native, config)
    for exact in trace_apart(native, output):
        join(exact)
        release()
        for precision in precisions:
            if precision in QUANTIZERS:
                QUANTIZERS[precision](exact, exact.with_name(f"{exact.stem}{SUFFIXES[precision]}.onnx"))
                release()
        if "fp32" not in precisions:
            exact.unlink()
    write_settings(native, output)


def release() -> None:
    """Return freed memory to the system: glibc keeps what was freed."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def join(path: Path) -> None:
    """Move the weights of a graph into its own file, as transformers.js expects it without further settings."""
    import onnx

    model = onnx.load(path)
    onnx.save(model, path)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # a small graph has none


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


def refuse_large(native: Path, config: dict) -> None:
    """Refuse a model whose decoder does not fit into one file, at the size of its weights in float32."""
    sizes: dict[str, int] = {}
    for path in native.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            sizes |= {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    if "vision_config" in config:
        sizes = {name: size for name, size in sizes.items() if name.startswith(DECODER_OF_IMAGE_MODELS)}
    total = 4 * sum(sizes.values())
    if total >= LARGEST:
        raise ConversionError(
            f"--to onnx: the decoder has {total / 1e9:.1f} GB in float32, and a graph in one file holds less than "
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
