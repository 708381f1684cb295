"""The sampling options of `smol-hf generate` and `smol-hf chat` as arguments of `generate`."""

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
    """Sampling options. Of a checkpoint's `generation_config.json` only end tokens and penalties are used too.

    Args:
        temperature: 0 is greedy, 1 the model's own distribution.
        top_k: sample among the k likeliest tokens.
        top_p: sample among the likeliest tokens that make up this share.
        min_p: sample among tokens at least this share as likely as the likeliest.
        repetition_penalty: above 1: repeat less. None: the checkpoint's own.
        max_new_tokens: None: `DEFAULT_MAX_NEW_TOKENS`, or the remaining positions if fewer.
        seed: row n of a run is drawn as by `set_seed(seed + n)` and `generate` for it only. None: random.
        stop: strings that end an answer and are not part of it.
        cache: of keys and values: "dynamic", "static" (allocated at once; compiled on a GPU), "none".

    Raises:
        ValueError: for values out of range.
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
        for name, is_allowed, allowed in (
            ("temperature", lambda x: 0 <= x < math.inf, "at least 0 (0 is greedy, 1 the model's own distribution)"),
            ("top_k", lambda x: x >= 1, "at least 1"),
            ("top_p", lambda x: 0 < x <= 1, "above 0 and at most 1"),
            ("min_p", lambda x: 0 <= x <= 1, "from 0 to 1"),
            ("repetition_penalty", lambda x: 0 < x < math.inf, "above 0 (1 is none)"),
            ("max_new_tokens", lambda x: x >= 1, "at least 1"),
            ("seed", lambda x: 0 <= x <= LARGEST_SEED, f"from 0 to {LARGEST_SEED}"),
        ):
            value = getattr(self, name)
            if value is not None and not is_allowed(value):
                raise ValueError(f"{name} is {value}: it must be {allowed}")
        if self.temperature == 0 and (self.top_k, self.top_p, self.min_p) != (None, None, None):
            raise ValueError("top_k, top_p and min_p have no effect without sampling: give a temperature above 0")
        if "" in self.stop:
            raise ValueError("stop contains an empty string: leave it out")
        if self.cache not in CACHES:
            raise ValueError(f"cache is {self.cache!r}: choose one of {', '.join(CACHES)}")

    def arguments(self, rows: Sequence[int], device: torch.device | str) -> dict:
        """Return the arguments of `generate` for a batch. `rows`: index of each row in the run."""
        arguments: dict = {
            "do_sample": False,  # `Draw`, the last of the logits processors, samples
            "num_beams": 1,
            "use_cache": self.cache != "none",
            **dict.fromkeys(("temperature", "top_k", "top_p", "min_p")),
        }
        if self.cache == "static":
            arguments["cache_implementation"] = "static"
        if self.repetition_penalty is not None:
            arguments["repetition_penalty"] = self.repetition_penalty
        if self.temperature > 0:
            # in the order of `generate`
            options: dict = {TopKLogitsWarper: self.top_k, TopPLogitsWarper: self.top_p, MinPLogitsWarper: self.min_p}
            warpers = [warper(value) for warper, value in options.items() if value is not None]
            seeds = [random.getrandbits(32) if self.seed is None else self.seed + row for row in rows]
            processors = [TemperatureLogitsWarper(self.temperature), *warpers, Draw(seeds, device)]
            arguments["logits_processor"] = LogitsProcessorList(processors)
        return arguments


class Draw(LogitsProcessor):
    """Draw a token for each row from its own generator, so that an answer does not depend on its batch.

    `generate` draws all rows of a batch from one generator, also by `torch.multinomial`.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids, scores):
        """Replace `scores` (batch, vocabulary) by 0 at the drawn token and -inf elsewhere."""
        shares = scores.softmax(dim=-1)
        drawn = [
            torch.multinomial(row, 1, generator=generator) for row, generator in zip(shares.split(1), self.generators)
        ]
        return torch.full_like(scores, -math.inf).scatter_(1, torch.cat(drawn), 0.0)
