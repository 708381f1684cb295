"""`smol-hf chat`: a conversation with a checkpoint, whose answers are read as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from smol_hf.inference.answering import prompt_inputs
from smol_hf.inference.generation import Generation, room_after
from smol_hf.inference.prompts import check_text, load_images, user_turn
from smol_hf.inference.run import stream_turn
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS, Sampling

COMMANDS = {
    "/image FILE": "show an image with the next question",
    "/reset": "forget the conversation and begin a new one",
    "/help": "list these commands",
}
HELP = "\n".join(f"  {name:<12} {meaning}" for name, meaning in COMMANDS.items())
ENDING = "An empty line or Ctrl-D ends the chat."


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
        """Ask, and yield the answer piece by piece; the question and the answer then belong to the
        conversation. An answer that fails or is not read to its end leaves the conversation as it was."""
        check_text(text, "the question")
        messages = [*self.messages, user_turn(text, self.waiting_images)]
        inputs = prompt_inputs(self.processor, [messages], self.model.device)
        room = room_after(self.model, inputs["input_ids"].shape[1], "chat")
        limit = min(self.sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, room)
        self.last = yield from stream_turn(self.model, self.processor, inputs, self.sampling, limit)
        answer = {"role": "assistant", "content": [{"type": "text", "text": self.last.text}]}
        self.messages, self.waiting_images = [*messages, answer], []

    def show(self, path: str | Path) -> None:
        """Show an image with the next question, after those that wait already.

        Raises:
            SampleError: for an image that cannot be read, or a model without an image encoder.
        """
        self.waiting_images += load_images(self.processor, [path], "chat")

    def reset(self) -> None:
        """Forget the conversation, and the images that wait for a question."""
        self.messages, self.waiting_images = [], []

    def obey(self, line: str) -> str | None:
        """Carry out a line that is a command, and say in words what was done; None for a question.

        Raises:
            ValueError: for a command that does not exist, and for what `show` refuses.
        """
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if re.fullmatch("/[a-z]+", name) is None:  # a path, for example
            return None
        if name == "/image" and rest:
            path = Path(rest.strip("'\"")).expanduser()
            self.show(path)
            width, height = self.waiting_images[-1].size
            return f"{path} ({width} × {height} pixels) is shown with the next question"
        if name == "/image":
            raise ValueError("/image needs the path of a file: /image page.png")
        if name == "/reset":
            self.reset()
            return "a new conversation begins"
        if name == "/help":
            return f"{HELP}\n{ENDING}"
        raise ValueError(f"there is no command {name}: /help lists them")
