"""Greedy answers of an exported folder with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.export.native import normalize
from smol_hf.export.onnx.graphs import DECODER, EMBEDDING, TEXT, VISION
from smol_hf.export.onnx.precisions import SUFFIXES, file_of
from smol_hf.export.target import Answer, MissingEngineError
from smol_hf.support.formatting import one_line


def precisions_in(folder: Path) -> list[str]:
    """Return the precisions of the graphs in a folder, the most exact first."""
    return [name for name in SUFFIXES if any(file_of(folder, graph, name).is_file() for graph in (DECODER, TEXT))]


class Sessions:
    """The graphs of a folder in one precision, loaded by onnxruntime on the CPU.

    Raises:
        MissingEngineError: if onnxruntime is missing.
        ValueError: for a graph that cannot be loaded.
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

        def load(path: Path) -> Any:
            try:
                return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # of any kind, for bytes that are no graph
                raise ValueError(f"{path}: missing or damaged ({one_line(error)}): export again") from error

        self.graphs = {name: load(file_of(folder, name, precision)) for name in names}
        self.decoder = names[-1]
        inputs = self.graphs[self.decoder].get_inputs()
        self.cache = {each.name: each.shape for each in inputs if each.name.startswith("past_key_values")}

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run a graph and return its outputs in their order."""
        return [np.asarray(output) for output in self.graphs[name].run(None, inputs)]

    def features(self, pixel_values: np.ndarray) -> np.ndarray:
        """Encode normalised tiles, (1, tiles, 3, side, side) → (image tokens, hidden)."""
        mask = np.ones((*pixel_values.shape[:2], *pixel_values.shape[3:]), bool)
        (features,) = self.run(VISION, pixel_values=pixel_values, pixel_attention_mask=mask)
        return features.reshape(-1, features.shape[-1])

    def decoder_inputs(self, ids: np.ndarray, pixel_values: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the input of the decoder: ids, or embeddings with the features of images in the prompt."""
        if VISION not in self.graphs:
            return {"input_ids": ids}
        (embeddings,) = self.run(EMBEDDING, input_ids=ids)
        if pixel_values is not None:
            embeddings[ids == self.config["image_token_id"]] = self.features(pixel_values)
        return {"inputs_embeds": embeddings}

    def answer(self, ids: np.ndarray, pixel_values: np.ndarray | None, new_tokens: int, rules: EndRules) -> Answer:
        """Continue a prompt, (1, length) ids, greedily until an end token."""
        tokens, logits_of_first, past = [], None, 0
        inputs = self.decoder_inputs(ids, pixel_values)
        # Keys and values of each layer without a token: (1, key-value heads, 0, head size).
        cache = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.cache.items()}
        while len(tokens) < new_tokens:
            length = ids.shape[1]
            mask, positions = np.ones((1, past + length), np.int64), np.arange(past, past + length)[None]
            more = {**inputs, **cache, "attention_mask": mask, "position_ids": positions}
            logits, *states = self.run(self.decoder, **more)
            last = logits[0, -1]  # (vocabulary,)
            logits_of_first = last.copy() if logits_of_first is None else logits_of_first
            last[list(rules.suppressed)] = -np.inf
            tokens.append(int(last.argmax()))
            if tokens[-1] in rules.ends:
                break
            past, ids = past + length, np.array([tokens[-1:]])
            inputs, cache = self.decoder_inputs(ids), dict(zip(self.cache, states, strict=True))
        return Answer(tokens, logits=logits_of_first)


@dataclass(frozen=True)
class EndRules:
    """Tokens of a folder's generation settings, as transformers.js applies them."""

    ends: tuple[int, ...]
    suppressed: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> EndRules:
        """Read generation_config.json, or config.json without it."""
        path = folder / "generation_config.json"
        settings = read_json(path if path.is_file() else folder / "config.json")
        ends = settings.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return cls(tuple(ends), tuple(settings.get("suppress_tokens") or ()))


def answer_with(precision: str, folder: Path, encoded: Sequence[Mapping[str, Any]], new_tokens: int) -> list[Answer]:
    """Answer encoded prompts.

    Args:
        encoded: see `answer_encoded` of `Target`.
    """
    sessions, rules = Sessions(folder, precision), EndRules.of(folder)
    answers = []
    for inputs in encoded:
        ids, tiles = inputs["input_ids"].numpy(), inputs.get("pixel_values")
        pixel_values = None if tiles is None else normalize(tiles, folder).numpy()
        answers.append(sessions.answer(ids, pixel_values, new_tokens, rules))
    return answers
