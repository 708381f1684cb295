"""`smol-hf chat`: ask a checkpoint about pictures, and read the answer as it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Thread

import torch
from transformers import TextIteratorStreamer, set_seed

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.images import load_image
from smol_hf.inference.answering import DEFAULT_MAX_NEW_TOKENS, prompt_inputs


class Chat:
    """A conversation with a loaded checkpoint; each call of `say` is a turn.

    Args:
        images: pictures shown with the first turn.
        sampling: `temperature` (0 = greedy), `top_k`, `top_p`, `repetition_penalty`, `max_new_tokens`, `seed`.
    """

    def __init__(self, model, processor, images: Iterable[str | Path] = (), **sampling):
        self.model, self.processor = model, processor
        self.waiting_images = [load_image(ImagePart(path=str(path)), "chat") for path in images]
        self.messages: list[dict] = []
        self.sampling = sampling

    def say(self, text: str) -> Iterator[str]:
        """Ask, and yield the answer piece by piece; it then belongs to the conversation."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"the question is not valid UTF-8 at character {error.start}") from error
        parts = [{"type": "image", "image": image} for image in self.waiting_images]
        self.waiting_images = []
        self.messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
        inputs = prompt_inputs(self.processor, [self.messages], self.model.device)
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        arguments = generate_arguments(**self.sampling)
        if positions is not None:
            room = positions - inputs["input_ids"].shape[1]
            if room < 1:
                raise SampleError("chat", f"the conversation fills all {positions} positions of the model")
            arguments["max_new_tokens"] = min(arguments["max_new_tokens"], room)
        answer = ""
        for piece in stream(self.model, self.processor, inputs, arguments):
            piece = piece if answer else piece.lstrip()
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})


def generate_arguments(
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    seed: int | None = None,
) -> dict:
    """The options of the command as arguments of `generate`. Raises ValueError for values that mean nothing."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: 0 is greedy, 1 the model's own distribution")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: a share above 0 and up to 1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: at least 1")
    if repetition_penalty is not None and not 0 < repetition_penalty < math.inf:
        raise ValueError(f"repetition_penalty is {repetition_penalty}: above 0; 1 is none")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: at least 1")
    if temperature == 0 and (top_k, top_p) != (None, None):
        raise ValueError("top_k and top_p choose among samples: give a temperature above 0 with them")
    arguments: dict = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        arguments |= {"temperature": temperature, "top_k": top_k or 0, "top_p": 1.0 if top_p is None else top_p}
    if repetition_penalty is not None:
        arguments["repetition_penalty"] = repetition_penalty
    if seed is not None:
        set_seed(seed)
    return arguments


def stream(model, processor, inputs, arguments: dict) -> Iterator[str]:
    """Pieces of text as `generate` produces them. An error in it is raised here, not lost in its thread."""
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failure: list[BaseException] = []

    def work():
        try:
            with torch.inference_mode():
                model.generate(**inputs, streamer=streamer, **arguments)
        except BaseException as error:
            failure.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    yield from streamer
    thread.join()
    if failure:
        raise failure[0]
