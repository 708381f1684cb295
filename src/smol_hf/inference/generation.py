"""A batch of encoded prompts → what the model writes after them, by transformers' `generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, StopStringCriteria, TextIteratorStreamer

from smol_hf.data.conversation import SampleError
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS, Sampling
from smol_hf.support.tokenizer_of import padding_token_id

# Texts come out as the tokens have them: the cleaning of old tokenizers would move spaces.
DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True)
class Generation:
    """What was written after a prompt.

    Args:
        text: without special tokens, and without the stop string.
        tokens: how many the model made, those of the ending among them.
        finish_reason: "stop" (a stop string), "end" (the model's own end token) or "length".
        seconds: that its batch took, all its rows together.
        batch_rows: how many these were.
    """

    text: str
    tokens: int
    finish_reason: str
    seconds: float
    batch_rows: int = 1

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@torch.inference_mode()
def generate(
    model, tokenizer, inputs, sampling: Sampling, *, max_new_tokens: int, rows: Sequence[int] = (0,), streamer=None
) -> list[Generation]:
    """Continue a left-padded batch.

    Args:
        inputs: `input_ids` (batch, sequence), `attention_mask`, and pictures where there are any.
        max_new_tokens: of this batch, see `new_tokens_for`.
        rows: the place of each row in the whole run, on which what is drawn for it depends.
    """
    length = inputs["input_ids"].shape[1]
    arguments = sampling.arguments(rows, inputs["input_ids"].device)
    ends = end_tokens(model, tokenizer)
    stop = NewTextStop(tokenizer, sampling.stop, length) if sampling.stop else None
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
    )
    new_tokens = output[:, length:].tolist()
    seconds = time.perf_counter() - started
    stopped = stop.stopped_at.tolist() if stop is not None else [0] * len(new_tokens)
    return [
        Generation(*finish(tokenizer, row, ends, stopped_at, sampling.stop), seconds, len(new_tokens))
        for row, stopped_at in zip(new_tokens, stopped)
    ]


def finish(
    tokenizer, tokens: list[int], ends: list[int], stopped_at: int, stop: Sequence[str]
) -> tuple[str, int, str]:
    """(text, tokens, finish_reason) of a row, which may have padding behind it."""
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
    """Where the first of the strings begins in the text, None where there is none."""
    return min((text.index(string) for string in strings if string in text), default=None)


class NewTextStop(StoppingCriteria):
    """transformers' `StopStringCriteria` for what is new only: the end of a prompt is no part of a stop string.

    `stopped_at` (batch,) counts the new tokens of each row up to its stop string, 0 where there was none: rows that
    are done go on with the batch.
    """

    def __init__(self, tokenizer, strings: Sequence[str], prompt_length: int):
        self.strings = StopStringCriteria(tokenizer, list(strings))
        self.prompt_length = prompt_length
        self.stopped_at: torch.Tensor | None = None

    def __call__(self, input_ids, scores, **kwargs):
        new_tokens = input_ids[:, self.prompt_length :]
        if self.stopped_at is None:
            self.stopped_at = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        found = self.strings(new_tokens, scores) & (self.stopped_at == 0)
        self.stopped_at = torch.where(found, new_tokens.shape[1], self.stopped_at)
        return self.stopped_at > 0


def end_tokens(model, tokenizer) -> list[int]:
    """The tokens that end an answer: the model's, or its tokenizer's where the model names none."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def room_after(model, length: int, where: str) -> int:
    """How many tokens the model has positions for after a prompt of `length`. Raises SampleError for none."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if length >= positions:
        raise SampleError(where, f"its {length} tokens fill all {positions} positions of the model: shorten it")
    return positions - length


def new_tokens_for(model, length: int, where: str, max_new_tokens: int | None) -> int:
    """How many new tokens a prompt may get.

    Args:
        max_new_tokens: as asked for; None: `DEFAULT_MAX_NEW_TOKENS`, or fewer where the model's positions end before.

    Raises:
        SampleError: when the model has not as many positions.
    """
    room = room_after(model, length, where)
    if max_new_tokens is not None and max_new_tokens > room:
        raise SampleError(
            where,
            f"{length} tokens and {max_new_tokens} new ones are more than the model's {length + room} positions: "
            f"shorten the prompt, or ask for at most {room} new tokens",
        )
    return max_new_tokens or min(DEFAULT_MAX_NEW_TOKENS, room)


def stream(model, tokenizer, inputs, sampling: Sampling, *, max_new_tokens: int):
    """Pieces of text as one prompt's continuation is written; the value at the end is its `Generation`.

    No piece holds half a character or a part of a stop string. An error is raised here, not lost in its thread.
    """
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, **DECODING)
    results: list[Generation] = []
    failures: list[BaseException] = []

    def work():
        try:
            results.extend(
                generate(model, tokenizer, inputs, sampling, max_new_tokens=max_new_tokens, streamer=streamer)
            )
        except BaseException as error:
            failures.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    yield from before_stop(streamer, sampling.stop)
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def before_stop(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The text up to the first stop string. What may be the beginning of one waits for what follows."""
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
