"""`smol-hf chat`: a conversation with a checkpoint, whose answers are streamed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from smol_hf.inference.answering import prompt_inputs
from smol_hf.inference.generation import Generation, room_after, stream
from smol_hf.inference.media import chosen_frames, load_images, user_turn, video_parts
from smol_hf.inference.prompts import check_text
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS, Sampling
from smol_hf.support.tokenizer_of import tokenizer_of

COMMANDS = {
    "/image FILE": "show an image with the next question",
    "/video FILE": "show a video with the next question",
    "/reset": "forget the conversation and begin a new one",
    "/help": "list these commands",
}
EXAMPLES = {"/image": "page.png", "/video": "clip.mp4"}
HELP = "\n".join(f"  {name:<12} {meaning}" for name, meaning in COMMANDS.items())
ENDING = "An empty line or Ctrl-D ends the chat."


class Chat:
    """A conversation with a loaded checkpoint; each call of `say` is a turn.

    Args:
        processor: the processor or tokenizer from `load_checkpoint`.
        images, videos: paths of images and videos shown with the first turn.
        sampling: the options of `Sampling`. The positions of the model also limit the length of an answer.

    Raises:
        ValueError: if an image or a video cannot be read, or the model is text-only.
    """

    def __init__(
        self, model, processor, images: Iterable[str | Path] = (), videos: Iterable[str | Path] = (), **sampling
    ):
        self.model, self.processor = model, processor
        self.waiting_images = load_images(processor, images, "")
        self.waiting_videos = video_parts(processor, videos, "")
        self.messages: list[dict] = []
        self.sampling = Sampling(**sampling)
        self.last: Generation | None = None  # the last complete answer

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` piece by piece, then add both to the conversation.

        An answer that fails or is not read to its end does not change the conversation.
        """
        check_text(text, "the question")
        messages = [*self.messages, user_turn(text, self.waiting_images, self.waiting_videos)]
        inputs = prompt_inputs(self.processor, [messages], self.model.device)
        room = room_after(self.model, inputs["input_ids"].shape[1], "", "conversation")
        options = {"max_new_tokens": min(self.sampling.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, room), "chat": True}
        tokenizer = tokenizer_of(self.processor)
        self.last = yield from stream(self.model, tokenizer, inputs, self.sampling, **options)
        answer = {"role": "assistant", "content": [{"type": "text", "text": self.last.text}]}
        self.messages, self.waiting_images, self.waiting_videos = [*messages, answer], [], []

    def show(self, path: str | Path, is_video: bool = False) -> str:
        """Show an image or a video with the next question, after those already added, and return what it shows.

        Raises:
            SampleError: if it cannot be read, or the model is text-only.
        """
        if is_video:
            self.waiting_videos += video_parts(self.processor, [path], "")
            return chosen_frames(self.processor, path, "")
        self.waiting_images += load_images(self.processor, [path], "")
        width, height = self.waiting_images[-1].size
        return f"{width} × {height} pixels"

    def reset(self) -> None:
        """Forget the conversation, and the images and videos that wait for a question."""
        self.messages, self.waiting_images, self.waiting_videos = [], [], []

    def obey(self, line: str) -> str | None:
        """Run a line that is a command, and return a message about it; None for a question.

        Raises:
            ValueError: if the command is unknown, or `show` raises.
        """
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if re.fullmatch("/[a-z]+", name) is None:  # a path, for example
            return None
        if name in EXAMPLES and rest:
            path = Path(rest.strip("'\"")).expanduser()
            return f"{path} ({self.show(path, name == '/video')}) is shown with the next question"
        if name in EXAMPLES:
            raise ValueError(f"{name} needs the path of a file: {name} {EXAMPLES[name]}")
        if name == "/reset":
            self.reset()
            return "a new conversation begins"
        if name == "/help":
            return f"{HELP}\n{ENDING}"
        raise ValueError(f"unknown command {name}: /help lists the commands")
