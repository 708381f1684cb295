"""`smol-hf generate`: prompts → what a checkpoint writes after them, in batches or as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from smol_hf.data.conversation import SampleError
from smol_hf.inference.answering import left_padded, prompt_inputs
from smol_hf.inference.generation import Generation, generate, new_tokens_for, stream
from smol_hf.inference.prompts import Prompt, check_text, load_images, user_turn
from smol_hf.inference.sampling import Sampling
from smol_hf.inference.text_prompts import plain_ids
from smol_hf.support.tokenizer_of import is_language_model, tokenizer_of


@dataclass
class Generator:
    """A loaded checkpoint that answers prompts, each by itself.

    Args:
        processor: what `load_checkpoint` gave beside the model.
        chat: whether a prompt is a turn in a chat, or a text to be continued. None: a turn where there is a chat
            template.

    Raises:
        ValueError: for `chat` where there is no template.
    """

    model: object
    processor: object
    sampling: Sampling
    chat: bool | None = None

    def __post_init__(self):
        has_template = not is_language_model(self.processor) or self.processor.chat_template is not None
        if self.chat and not has_template:
            raise ValueError("this language model has no chat template: it continues text (leave --chat out)")
        self.chat = has_template if self.chat is None else self.chat

    def inputs(self, prompts: Sequence[Prompt]):
        """One left-padded batch, on the model's device."""
        if self.chat:
            turns = [[user_turn(each.text, load_images(self.processor, each.images, each.where))] for each in prompts]
            return prompt_inputs(self.processor, turns, self.model.device)
        for prompt in prompts:
            if prompt.images:
                load_images(self.processor, prompt.images, prompt.where)  # says so where there is no encoder
                raise SampleError(prompt.where, "a picture is shown in a chat: leave --no-chat out")
        tokenizer = tokenizer_of(self.processor)
        return left_padded(tokenizer, [plain_ids(tokenizer, each.text) for each in prompts], self.model.device)

    def new_tokens(self, prompt: Prompt) -> int:
        """How long the answer may be."""
        check_text(prompt.text, prompt.where)
        length = self.inputs([prompt])["input_ids"].shape[1]
        return new_tokens_for(self.model, length, prompt.where, self.sampling.max_new_tokens)

    def answers(self, prompts: Sequence[Prompt], batch_size: int = 1) -> Iterator[Generation]:
        """In the order of the prompts. None depends on its batch: prompts that may get unequally long answers, as
        they do near the end of the model's positions, are not in one.

        Raises:
            SampleError: with the place of a prompt that cannot be used. No answer is made then.
        """
        limits = [self.new_tokens(prompt) for prompt in prompts]
        tokenizer = tokenizer_of(self.processor)
        for limit, group in groupby(range(len(prompts)), key=limits.__getitem__):
            alike = list(group)
            for start in range(0, len(alike), batch_size):
                rows = alike[start : start + batch_size]
                inputs = self.inputs([prompts[row] for row in rows])
                for each in generate(self.model, tokenizer, inputs, self.sampling, max_new_tokens=limit, rows=rows):
                    yield turn(each) if self.chat else each

    def stream(self, prompt: Prompt):
        """Pieces of the answer to one prompt as they are written; the value at the end is its `Generation`."""
        limit = self.new_tokens(prompt)
        inputs = self.inputs([prompt])
        if self.chat:
            return (yield from stream_turn(self.model, self.processor, inputs, self.sampling, limit))
        tokenizer = tokenizer_of(self.processor)
        return (yield from stream(self.model, tokenizer, inputs, self.sampling, max_new_tokens=limit))


def turn(generation: Generation) -> Generation:
    """An answer of a chat, without the space that its template puts before it."""
    return replace(generation, text=generation.text.lstrip())


def stream_turn(model, processor, inputs, sampling: Sampling, max_new_tokens: int):
    """As `stream`, of a turn in a chat."""
    begun = False
    pieces = stream(model, tokenizer_of(processor), inputs, sampling, max_new_tokens=max_new_tokens)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as stopped:
            return turn(stopped.value)
        piece = piece if begun else piece.lstrip()
        begun = begun or bool(piece)
        yield piece
