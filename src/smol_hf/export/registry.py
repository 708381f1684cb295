"""The targets of `smol-hf export`."""

from __future__ import annotations

from pathlib import Path

from smol_hf.export.gguf.target import GGUF
from smol_hf.export.mlx import MLX
from smol_hf.export.native import NATIVE
from smol_hf.export.onnx.target import ONNX
from smol_hf.export.page.page import PAGE
from smol_hf.export.target import Target

TARGETS = {target.name: target for target in (NATIVE, GGUF, ONNX, PAGE, MLX)}


def target_of(name: str) -> Target:
    """Return the target with this name. Raise ValueError for an unknown one."""
    if name not in TARGETS:
        raise ValueError(f"--to {name}: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]


def target_of_folder(folder: Path) -> Target | None:
    """Return the target that wrote this folder. None if none did."""
    # Other targets also write a native config.json, so the first target is asked last.
    return next((target for target in reversed(TARGETS.values()) if target.is_written(folder)), None)
