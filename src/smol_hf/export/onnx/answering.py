"""Greedy answers of an exported folder with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.export.onnx.graphs import DECODER, EMBEDDING, TEXT, VISION
from smol_hf.export.onnx.precisions import SUFFIXES, file_of
from smol_hf.export.target import Answer, MissingEngineError


def precisions_in(folder: Path) -> list[str]:
    """Return the precisions of the graphs in a folder, the most exact first."""
    return [name for name in SUFFIXES if any(file_of(folder, graph, name).is_file() for graph in (DECODER, TEXT))]


class Sessions:
    """The graphs of a folder in one precision, loaded by onnxruntime on the CPU.

    Raises:
        MissingEngineError: if onnxruntime is missing.
    """

    def __init__(self, folder: Path, precision: str):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingEngineError('onnxruntime is missing: pip install "smol_hf[onnx]"') from error
        self.config = read_json(folder / "config.json")
        names = [TEXT] if file_of(folder, TEXT, precision).is_file() else [VISION, EMBEDDING, DECODER]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        load = onnxruntime.InferenceSession
        self.graphs = {
            name: load(file_of(folder, name, precision), options, providers=["CPUExecutionProvider"]) for name in names
        }
        self.decoder = self.graphs.get(TEXT) or self.graphs[DECODER]
        self.cache = {each.name: each for each in self.decoder.get_inputs() if each.name.startswith("past_key_values")}
        if VISION in self.graphs:
            self.pixels = read_json(folder / "preprocessor_config.json")

    def empty_cache(self) -> dict[str, np.ndarray]:
        """Return keys and values without a token, (1, key-value heads, 0, head size) each."""
        return {name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32) for name, each in self.cache.items()}

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.graphs[name].run(None, inputs)

    def features(self, pixel_values: np.ndarray) -> np.ndarray:
        """Encode tiles, (1, tiles, 3, side, side) uint8 → (image tokens, hidden)."""
        mean, deviation = (
            np.asarray(self.pixels[key], np.float32).reshape(3, 1, 1) for key in ("image_mean", "image_std")
        )
        pixels = (pixel_values.astype(np.float32) * np.float32(self.pixels["rescale_factor"]) - mean) / deviation
        mask = np.ones((*pixels.shape[:2], *pixels.shape[3:]), bool)
        (features,) = self.run(VISION, pixel_values=pixels, pixel_attention_mask=mask)
        return features.reshape(-1, features.shape[-1])

    def first_inputs(self, ids: np.ndarray, pixel_values: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the input of the decoder for a prompt: ids, or embeddings with the features of its images."""
        if VISION not in self.graphs:
            return {"input_ids": ids}
        (embeddings,) = self.run(EMBEDDING, input_ids=ids)
        if pixel_values is not None:
            embeddings[ids == self.config["image_token_id"]] = self.features(pixel_values)
        return {"inputs_embeds": embeddings}

    def answer(self, ids: np.ndarray, pixel_values: np.ndarray | None, new_tokens: int, ends: Sequence[int]) -> Answer:
        """Continue a prompt, (1, length) ids, greedily until an end token."""
        length, tokens, first = ids.shape[1], [], None
        inputs, cache, position = self.first_inputs(ids, pixel_values), self.empty_cache(), 0
        while len(tokens) < new_tokens:
            size = next(iter(inputs.values())).shape[1]
            positions = np.arange(position, position + size)[None]
            mask = np.ones((1, position + size), np.int64)
            logits, *states = self.decoder.run(
                None, {**inputs, **cache, "attention_mask": mask, "position_ids": positions}
            )
            first = logits[0, -1] if first is None else first
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] in ends:
                break
            position += size
            cache, inputs = (
                dict(zip(self.cache, states, strict=True)),
                self.first_inputs(np.array([tokens[-1:]]), None),
            )
        return Answer(tokens, length, first)


def answer_with(precision: str, folder: Path, encoded: Sequence[Mapping[str, Any]], new_tokens: int) -> list[Answer]:
    """Answer encoded prompts, each with `input_ids` (1, length) and perhaps `pixel_values` (1, tiles, 3, side, side)."""
    sessions, ends = Sessions(folder, precision), end_tokens_of(folder)
    answers = []
    for inputs in encoded:
        tiles = inputs.get("pixel_values")
        pixel_values = None if tiles is None else tiles.numpy()
        answers.append(sessions.answer(inputs["input_ids"].numpy(), pixel_values, new_tokens, ends))
    return answers


def end_tokens_of(folder: Path) -> list[int]:
    """Return the end tokens, which transformers.js reads from generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        ends = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        if ends is not None:
            return ends if isinstance(ends, list) else [ends]
    return []
