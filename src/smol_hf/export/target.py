"""Declaration of a target of `smol-hf export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smol_hf.inference.prompts import Prompt


class MissingEngineError(Exception):
    """The engine of a target cannot run here; the message names the missing package."""


@dataclass(frozen=True)
class Answer:
    """The greedy answer of an engine.

    Args:
        tokens: ids of the new tokens, with the end token if the engine reports it.
        prompt_tokens: length of the prompt with its image tokens; None if the engine does not tell.
        logits: of the first new token (vocabulary,), or its log probabilities; NaN where the engine does not tell.
    """

    tokens: list[int]
    prompt_tokens: int | None = None
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class Target:
    """A target of `smol-hf export`.

    Args:
        name: of the option `--to`.
        engine: what runs the result, for people.
        write: (native folder, empty output folder, options) → notes. The native folder is complete. Raises
            ConversionError with the unsupported part and what to choose instead.
        is_written: tells if a folder is a result of `write`.
        commands: (output folder) → commands that run the result.
        answer: (output folder, prompts, largest number of new tokens) → an answer per prompt. Raises
            MissingEngineError. None: the engine cannot be compared here.
        answer_encoded: (output folder, encoded prompts, largest number of new tokens) → an answer per prompt. It is
            used without `answer`, or if that raises MissingEngineError because of the engine's processor. A prompt is
            encoded by our processor: `input_ids`, `attention_mask` (1, sequence), and `pixel_values`
            (1, tiles, 3, side, side) uint8.
        options: keyword options of `write` that the command line offers, with their defaults. `write` also gets
            `checkpoint`, the folder of the source.
        variants: (output folder) → name of each further precision in it, and a function like `answer`, or like
            `answer_encoded` for a target without `answer`. They are compared too.
    """

    name: str
    engine: str
    write: Callable[[Path, Path, dict[str, Any]], list[str]]
    is_written: Callable[[Path], bool]
    commands: Callable[[Path], list[str]]
    answer: Callable[[Path, Sequence[Prompt], int], list[Answer]] | None = None
    answer_encoded: Callable[[Path, Sequence[dict[str, Any]], int], list[Answer]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    variants: Callable[[Path], dict[str, Callable[[Path, Sequence[Any], int], list[Answer]]]] = lambda folder: {}
