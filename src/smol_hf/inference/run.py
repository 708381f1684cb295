"""`smol-hf generate`: answer prompts with a checkpoint, in batches or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.inference.answering import left_padded, plain_ids, prompt_inputs
from smol_hf.inference.generation import Generation, generate, new_tokens_for, stream
from smol_hf.inference.media import load_images, refuse_text_only, user_turn, video_parts
from smol_hf.inference.prompts import Prompt, check_text
from smol_hf.inference.sampling import Sampling
from smol_hf.support.tokenizer_of import is_language_model, tokenizer_of


@dataclass
class Generator:
    """A loaded checkpoint that answers independent prompts.

    Args:
        processor: the processor or tokenizer from `load_checkpoint`.
        chat: a prompt is a turn in a chat (True) or a text to be continued (False). None: True if the model has a
            chat template.

    Raises:
        ValueError: for `chat` without a template.
    """

    model: Any
    processor: Any
    sampling: Sampling
    chat: bool | None = None

    def __post_init__(self):
        has_template = not is_language_model(self.processor) or self.processor.chat_template is not None
        if self.chat and not has_template:
            raise ValueError("this language model has no chat template, it only continues text: leave out --chat")
        self.chat = has_template if self.chat is None else self.chat

    def inputs(self, prompts: Sequence[Prompt]):
        """Encode the prompts as one left-padded batch on the model's device."""
        if self.chat:
            return prompt_inputs(self.processor, [[self.turn(each)] for each in prompts], self.model.device)
        for prompt in prompts:
            if shown := [*prompt.images, *prompt.videos]:
                refuse_text_only(self.processor, shown, prompt.where)
                raise SampleError(prompt.where, f"{shown[0]} is only allowed in a chat: leave out --no-chat")
        tokenizer = tokenizer_of(self.processor)
        return left_padded(tokenizer, [plain_ids(tokenizer, each.text) for each in prompts], self.model.device)

    def turn(self, prompt: Prompt) -> dict:
        images = load_images(self.processor, prompt.images, prompt.where)
        return user_turn(prompt.text, images, video_parts(self.processor, prompt.videos, prompt.where))

    def new_tokens(self, prompt: Prompt) -> int:
        """Return the limit of new tokens."""
        check_text(prompt.text, prompt.where)
        length = self.inputs([prompt])["input_ids"].shape[1]
        return new_tokens_for(self.model, length, prompt.where, self.sampling.max_new_tokens)

    def answers(self, prompts: Sequence[Prompt], batch_size: int = 1) -> Iterator[Generation]:
        """Yield the answers in the order of the prompts.

        An answer does not depend on its batch: only prompts with the same limit of new tokens share a batch.

        Raises:
            SampleError: with the place of an unusable prompt. Nothing is generated then.
        """
        limits = [self.new_tokens(prompt) for prompt in prompts]
        tokenizer = tokenizer_of(self.processor)
        for limit, group in groupby(range(len(prompts)), key=limits.__getitem__):
            alike = list(group)
            for start in range(0, len(alike), batch_size):
                rows = alike[start : start + batch_size]
                inputs = self.inputs([prompts[row] for row in rows])
                options = {"max_new_tokens": limit, "chat": self.chat, "rows": rows}
                yield from generate(self.model, tokenizer, inputs, self.sampling, **options)

    def stream(self, prompt: Prompt):
        """Yield the answer to one prompt in pieces, and return its `Generation`."""
        options = {"max_new_tokens": self.new_tokens(prompt), "chat": self.chat}
        inputs = self.inputs([prompt])
        return (yield from stream(self.model, tokenizer_of(self.processor), inputs, self.sampling, **options))
