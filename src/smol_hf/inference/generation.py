"""Continue a batch of encoded prompts by transformers' `generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, StopStringCriteria, TextIteratorStreamer

from smol_hf.data.conversation import SampleError
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS, Sampling
from smol_hf.modeling.compatibility import CACHE_NAME
from smol_hf.support.tokenizer_of import padding_token_id, token_ids

# The cleanup of old tokenizers would change spaces.
DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True)
class Generation:
    """The continuation of a prompt.

    Args:
        text: without special tokens and stop string.
        tokens: number of generated tokens, including the end.
        finish_reason: "stop" (a stop string), "end" (an end token) or "length".
        seconds: time for its batch.
        batch_rows: rows of its batch.
    """

    text: str
    tokens: int
    finish_reason: str
    seconds: float
    batch_rows: int = 1

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def generate(model, tokenizer, inputs, sampling: Sampling, **options) -> list[Generation]:
    """Continue a left-padded batch. Arguments: see `generate_with_cache`."""
    return generate_with_cache(model, tokenizer, inputs, sampling, **options)[0]


@torch.inference_mode()
def generate_with_cache(
    model, tokenizer, inputs, sampling: Sampling, *, max_new_tokens: int, chat: bool, rows=(0,), streamer=None
) -> tuple[list[Generation], Any]:
    """Continue a left-padded batch. Returns its cache too, of prompts and new tokens, or None without one.

    Args:
        inputs: `input_ids` (batch, sequence), `attention_mask`, and images if any.
        max_new_tokens: of this batch, see `new_tokens_for`.
        chat: remove the space with which a chat template begins an answer.
        rows: index of each row in the run; the random numbers for a row depend only on it.
    """
    length = inputs["input_ids"].shape[1]
    arguments = sampling.arguments(rows, inputs["input_ids"].device)
    ends = end_tokens(model, tokenizer)
    stop = NewTextStop(tokenizer, sampling.stop, inputs["input_ids"]) if sampling.stop else None
    if stop is not None:
        arguments["stopping_criteria"] = StoppingCriteriaList([stop])
    started = time.perf_counter()
    output = model.generate(
        **inputs,
        **arguments,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=padding_token_id(tokenizer),
        streamer=streamer,
        return_dict_in_generate=True,
    )
    new_tokens = output.sequences[:, length:].tolist()
    seconds = time.perf_counter() - started
    stopped = stop.stopped_at.tolist() if stop is not None else [0] * len(new_tokens)
    results = []
    for row, stopped_at in zip(new_tokens, stopped):
        text, count, reason = finish(tokenizer, row, ends, stopped_at, sampling.stop)
        results.append(Generation(text.lstrip() if chat else text, count, reason, seconds, len(new_tokens)))
    return results, getattr(output, CACHE_NAME, None)


def finish(
    tokenizer, tokens: list[int], ends: list[int], stopped_at: int, stop: Sequence[str]
) -> tuple[str, int, str]:
    """Return (text, tokens, finish_reason) of a row, which may end with padding."""
    ended_at = next((count for count, token in enumerate(tokens, start=1) if token in ends), 0)
    reason, count = "length", len(tokens)
    if ended_at and not 0 < stopped_at < ended_at:
        reason, count = "end", ended_at
    elif stopped_at:
        reason, count = "stop", stopped_at
    text = tokenizer.decode(tokens[:count], **DECODING)
    kept = text[: first_of(stop, text)]
    return kept, count, reason if kept == text else "stop"


def first_of(strings: Iterable[str], text: str) -> int | None:
    """Return the position of the first of the strings in the text; None if none occurs."""
    return min((text.index(string) for string in strings if string in text), default=None)


class NewTextStop(StoppingCriteria):
    """transformers' `StopStringCriteria` for new tokens only: a stop string cannot begin in the prompt.

    `stopped_at` (batch,) is the number of new tokens of each row up to its stop string, 0 without one. A finished row
    goes on until its batch is finished.
    """

    def __init__(self, tokenizer, strings: Sequence[str], prompts: torch.Tensor):
        self.strings = StopStringCriteria(tokenizer, list(strings))
        self.prompt_length = prompts.shape[1]
        self.stopped_at = torch.zeros(len(prompts), dtype=torch.long, device=prompts.device)

    def __call__(self, input_ids: Any, scores, **kwargs):
        new_tokens = input_ids[:, self.prompt_length :]
        found = self.strings(new_tokens, scores) & (self.stopped_at == 0)
        self.stopped_at = torch.where(found, new_tokens.shape[1], self.stopped_at)
        return self.stopped_at > 0


def end_tokens(model, tokenizer) -> list[int]:
    """Return the end tokens of the model, or of the tokenizer if the model has none."""
    ends = model.generation_config.eos_token_id
    return token_ids(tokenizer.eos_token_id if ends is None else ends)


def room_after(model, length: int, where: str, what: str = "prompt") -> int:
    """Return the number of positions after a prompt of `length`. Raise SampleError if none is left."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if length >= positions:
        raise SampleError(
            where, f"the {length} tokens of the {what} fill all {positions} positions of the model: shorten it"
        )
    return positions - length


def new_tokens_for(model, length: int, where: str, max_new_tokens: int | None) -> int:
    """Return the limit of new tokens for a prompt. Raise SampleError if the model does not have enough positions.

    Args:
        max_new_tokens: the requested limit; None: `DEFAULT_MAX_NEW_TOKENS`, or the remaining positions if fewer.
    """
    room = room_after(model, length, where)
    if max_new_tokens is not None and max_new_tokens > room:
        raise SampleError(
            where,
            f"the {length} tokens of the prompt and {max_new_tokens} new ones are more than the {length + room} "
            f"positions of the model: shorten the prompt, or request at most {room} new tokens",
        )
    return max_new_tokens or min(DEFAULT_MAX_NEW_TOKENS, room)


def stream(model, tokenizer, inputs, sampling: Sampling, **options):
    """Yield the continuation of one prompt in pieces of text, and return its `Generation`. `options`: of `generate`.

    No piece contains half a character or a part of a stop string. Errors of the generating thread are raised here.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, **DECODING)
    results: list[Generation] = []
    failures: list[BaseException] = []

    def work():
        try:
            results.extend(generate(model, tokenizer, inputs, sampling, streamer=streamer, **options))
        except BaseException as error:  # noqa: BLE001 (the caller raises it)
            failures.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    pieces = before_stop(streamer, sampling.stop)
    yield from without_start(pieces) if options["chat"] else pieces
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def before_stop(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield the text up to the first stop string. A possible beginning of one is held back."""
    waiting = ""
    for piece in pieces:
        waiting += piece
        end = first_of(stop, waiting)
        if end is not None:
            yield waiting[:end]
            return
        beginnings = (
            length for string in stop for length in range(1, len(string)) if waiting.endswith(string[:length])
        )
        safe = len(waiting) - max(beginnings, default=0)
        yield waiting[:safe]
        waiting = waiting[safe:]
    yield waiting


def without_start(pieces: Iterator[str]) -> Iterator[str]:
    """Remove white space from the beginning of the text."""
    for piece in pieces:
        if piece := piece.lstrip():
            yield piece
            break
    yield from pieces
