"""`smol-hf chat`: a conversation with a checkpoint, whose answers are read as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from smol_hf.inference.answering import prompt_inputs
from smol_hf.inference.generation import Generation, room_after
from smol_hf.inference.prompts import check_text, load_images, user_turn
from smol_hf.inference.run import stream_turn
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS, Sampling


class Chat:
    """A conversation with a loaded checkpoint; each call of `say` is a turn.

    Args:
        processor: what `load_checkpoint` gave beside the model.
        images: pictures shown with the first turn.
        sampling: the options of `Sampling`. An answer is shorter than `max_new_tokens` where the model has no more
            positions.

    Raises:
        ValueError: for pictures that cannot be read, or that a language model alone is asked about.
    """

    def __init__(self, model, processor, images: Iterable[str | Path] = (), **sampling):
        self.model, self.processor = model, processor
        self.waiting_images = load_images(processor, images, "chat")
        self.messages: list[dict] = []
        self.sampling = Sampling(**sampling)
        self.last: Generation | None = None  # the newest answer, once it is whole

    def say(self, text: str) -> Iterator[str]:
        """Ask, and yield the answer piece by piece; it then belongs to the conversation."""
        check_text(text, "the question")
        self.messages.append(user_turn(text, self.waiting_images))
        self.waiting_images = []
        inputs = prompt_inputs(self.processor, [self.messages], self.model.device)
        room = room_after(self.model, inputs["input_ids"].shape[1], "chat")
        limit = min(self.sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, room)
        self.last = yield from stream_turn(self.model, self.processor, inputs, self.sampling, limit)
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": self.last.text}]})
