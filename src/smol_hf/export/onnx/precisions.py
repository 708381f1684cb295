"""Precisions of an ONNX graph: float32, and integer weights made by the quantisers of onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from smol_hf.export.onnx.graphs import VISION

# Precision → suffix of its file, as transformers.js names it. The most exact is first.
SUFFIXES = {"fp32": "", "q8": "_quantized", "q4": "_q4"}
DEFAULT = ("fp32", "q8")  # transformers.js takes fp32 in Node and with WebGPU, and q8 without WebGPU
BLOCK = 32  # weights of q4 that share a scale


def check_precisions(names) -> tuple[str, ...]:
    """Return the precisions without duplicates, the most exact first. Raise ValueError for an unknown one or none."""
    if unknown := [name for name in names if name not in SUFFIXES]:
        raise ValueError(f"--precisions {unknown[0]}: choose from {', '.join(SUFFIXES)}")
    if not names:
        raise ValueError(f"--precisions is empty: choose from {', '.join(SUFFIXES)}")
    return tuple(name for name in SUFFIXES if name in names)


def file_of(folder: Path, graph: str, precision: str) -> Path:
    """Return the path of a graph in a folder of transformers.js."""
    return folder / "onnx" / f"{graph}{SUFFIXES[precision]}.onnx"


def quantize_to_8_bits(source: Path, path: Path) -> None:
    """Write weights as 8-bit integers; activations are quantised while the graph runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The convolution of the image encoder has no kernel for signed weights.
    kind = QuantType.QUInt8 if source.stem == VISION else QuantType.QInt8
    with quiet_quantizer():
        quantize_dynamic(source, path, weight_type=kind)


def quantize_to_4_bits(source: Path, path: Path) -> None:
    """Write the weights of matrix products as 4-bit integers, with a scale for each block."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quiet_quantizer():
        quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=BLOCK, is_symmetric=True)
        quantizer.process()
        onnx.save(quantizer.model.model, path)  # pyright: ignore[reportAttributeAccessIssue]


QUANTIZERS: dict[str, Callable[[Path, Path], None]] = {"q8": quantize_to_8_bits, "q4": quantize_to_4_bits}


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Hide advice about optional steps of the quantisers."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
