"""Trace the graphs of a native folder, in a process of its own: the exporter keeps the weights until it ends.

The program `python -m smol_hf.export.onnx.tracing NATIVE OUTPUT PARENT` writes the graphs with float32 weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from smol_hf.auto import AutoModelForCausalLM, AutoModelForImageTextToText
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.onnx.graphs import image_graphs, text_graphs
from smol_hf.export.onnx.precisions import file_of


def trace_apart(native: Path, output: Path) -> list[Path]:
    """Write the graphs of `native`, and return their files. Raise ConversionError if the exporter fails."""
    command = [sys.executable, "-P", "-m", "smol_hf.export.onnx.tracing", str(native), str(output), str(os.getpid())]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise ConversionError(f"torch.onnx.export failed ({reason}): export with --to native instead")
    return sorted((output / "onnx").glob("*.onnx"))


def trace(native: Path, output: Path) -> None:
    """Write each graph, and its weights into a second file: a single one needs two more copies of them."""
    sees_images = "vision_config" in read_json(native / "config.json")
    auto_class = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
    # Eager attention is plain matrix products, which every execution provider of onnxruntime has.
    model = auto_class.from_pretrained(native, dtype=torch.float32, attn_implementation="eager").eval()
    builders = (image_graphs if sees_images else text_graphs)(model)
    del model
    while builders:  # each builder holds only the parts of the model that its graph needs
        graph = builders.pop(0)()
        path = file_of(output, graph.name, "fp32")
        path.parent.mkdir(exist_ok=True)
        graph.save(path)


def end_with(parent: int) -> None:
    """End this process soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[3]),), daemon=True).start()
    trace(Path(sys.argv[1]), Path(sys.argv[2]))
