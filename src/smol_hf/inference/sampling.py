"""How the next token is chosen: the options of `smol-hf generate` and `smol-hf chat` as arguments of `generate`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

DEFAULT_MAX_NEW_TOKENS = 256
CACHES = ("dynamic", "static", "none")
LARGEST_SEED = 2**32 - 1  # numpy's, and so that of transformers' `set_seed`


@dataclass(frozen=True)
class Sampling:
    """Options that mean something; the values of a checkpoint's own `generation_config.json` do not add to them,
    but for the tokens that end an answer and the penalties.

    Args:
        temperature: 0 is greedy, 1 the model's own distribution.
        top_k, top_p, min_p: sample among the k likeliest tokens; among the likeliest that make up this share; among
            those that are at least this share as likely as the likeliest. Each needs a temperature.
        repetition_penalty: above 1: repeat less. None: the checkpoint's own.
        max_new_tokens: None: `DEFAULT_MAX_NEW_TOKENS`, or as many as the model has positions for.
        seed: row n of a run draws as `set_seed(seed + n)` and `generate` of it alone would. None: another every time.
        stop: strings that end an answer, not part of it.
        cache: of keys and values: "dynamic", "static" (allocated at once; compiled on a GPU), "none".

    Raises:
        ValueError: for values that mean nothing.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    cache: str = "dynamic"

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}: 0 is greedy, 1 the model's own distribution")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}: at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: a share above 0 and up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: a share from 0 to 1")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: above 0; 1 is none")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: at least 1")
        if self.temperature == 0 and (self.top_k, self.top_p, self.min_p) != (None, None, None):
            raise ValueError("top_k, top_p and min_p choose among samples: give a temperature above 0 with them")
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed is {self.seed}: from 0 to {LARGEST_SEED}")
        if "" in self.stop:
            raise ValueError("stop is an empty string, which every answer begins with")
        if self.cache not in CACHES:
            raise ValueError(f"cache is {self.cache!r}: choose one of {', '.join(CACHES)}")

    def arguments(self, rows: Sequence[int], device: torch.device | str) -> dict:
        """The arguments of `generate` for a batch of these rows, counted over the whole run, but for their lengths."""
        arguments: dict = {
            "do_sample": False,  # the draw, if any, is the last of the logits processors
            "num_beams": 1,
            "use_cache": self.cache != "none",
            "temperature": None,
            "top_k": None,
            "top_p": None,
            "min_p": None,
        }
        if self.cache == "static":
            arguments["cache_implementation"] = "static"
        if self.repetition_penalty is not None:
            arguments["repetition_penalty"] = self.repetition_penalty
        if self.temperature > 0:
            arguments["logits_processor"] = LogitsProcessorList([*self.warpers(), Draw(self.seeds(rows), device)])
        return arguments

    def warpers(self) -> list[LogitsProcessor]:
        """In the order in which `generate` applies them."""
        warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(self.temperature)]
        if self.top_k is not None:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            warpers.append(MinPLogitsWarper(self.min_p))
        return warpers

    def seeds(self, rows: Sequence[int]) -> list[int]:
        return [random.getrandbits(32) if self.seed is None else self.seed + row for row in rows]


class Draw(LogitsProcessor):
    """Draws a token for each row from a generator of its own, so that a row's answer does not depend on its batch.

    `generate` itself draws all rows of a batch from one generator. The draw is the same, `torch.multinomial`.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids, scores):
        """`scores` (batch, vocabulary) → 0 at the token that was drawn, -inf elsewhere."""
        shares = scores.softmax(dim=-1)
        drawn = [
            torch.multinomial(row, 1, generator=generator) for row, generator in zip(shares.split(1), self.generators)
        ]
        return torch.full_like(scores, -math.inf).scatter_(1, torch.cat(drawn), 0.0)
