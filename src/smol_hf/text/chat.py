"""Conversations for a text-only model → token ids, and labels on what the assistant generates."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from smol_hf.data.conversation import SampleError
from smol_hf.data.stream.preparation import MeasuredSample, SampleWork
from smol_hf.data.stream.shortening import Shape
from smol_hf.processing.chat_encoding import ChatEncoder
from smol_hf.processing.chat_messages import EXAMPLE, ChatTemplateError
from smol_hf.processing.chat_rendering import ChatRenderer, renderer_of
from smol_hf.processing.chat_turns import TrainedSequence, encode_turns, refuse_unwritten_fields


class TextChat:
    """The counterpart of the processor for a text-only model that learns from conversations.

    Args:
        tokenizer: with a chat template.

    Raises:
        ChatTemplateError: when it has none.
    """

    # `SampleWork` reads them. There are no images.
    longest_edge = 0
    tile_size = 1
    image_token_id = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.chat_template is None:
            raise ChatTemplateError(
                "the tokenizer has no chat template, which says how a conversation is written: name one with "
                "chat_template, such as chat_template: chatml"
            )
        self.tokenizer = tokenizer
        self.template = tokenizer.get_chat_template()

    def __getstate__(self):
        # The encoder is rebuilt in a data loader's worker.
        return {"tokenizer": self.tokenizer, "template": self.template}

    @cached_property
    def encoder(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer, None, set(self.tokenizer.all_special_tokens))

    @property
    def renderer(self) -> ChatRenderer:
        return renderer_of(self.encoder, self.template)

    @property
    def end_of_turn(self) -> tuple[str, str]:
        """See `ChatRenderer.end_of_turn`."""
        return self.renderer.end_of_turn

    def encode_text(self, messages: list[dict], image_sizes=()) -> tuple[list[int], list[int]]:
        """(input_ids, labels), -100 where nothing is generated.

        Args:
            messages: `role` and `content`, a text or a list of parts that are texts. One with `"trained": False` gets
                no labels.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, when the template refuses the
                messages, or does not write one of their fields.
        """
        messages = as_texts(messages)
        refuse_unwritten_fields(self.renderer, messages)
        return self.renderer.encode(messages)

    def encode_turns(self, messages: list[dict], image_sizes=(), tools=None) -> list[TrainedSequence]:
        """The sequences that a conversation is trained as, see `chat_turns.encode_turns`."""
        return encode_turns(self.renderer.with_tools(tools), as_texts(messages))

    def prompt_ids(self, messages: list[dict], tools=None) -> list[int]:
        """The tokens up to where the assistant's turn begins. Raises ChatTemplateError."""
        return self.renderer.with_tools(tools).encode(as_texts(messages), asks=True, labelled=False)[0]

    def tiles(self, images) -> np.ndarray:
        return np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)

    def check(self) -> None:
        """Raises ChatTemplateError for a template or a tokenizer that nothing can be trained with."""
        ending, _ = self.end_of_turn
        text = self.renderer.text(EXAMPLE)
        whole = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = list(self.encoder.split(text, (), texts=False, images=False))
        if self.encoder.encode_pieces(pieces, (), ())[0] != whole:
            raise ChatTemplateError(
                "this tokenizer writes the words after a special token otherwise than at the beginning of a text "
                f"(after {ending}, for one), and conversations of such a one cannot be encoded exactly"
            )
        self.encode_text(EXAMPLE)


class TextChatWork(SampleWork):
    """The engine's work on conversations for a text-only model; `processor` is a `TextChat`."""

    def measured(self, shape: Shape, lost: str = "") -> MeasuredSample:
        if shape.conversation.images:
            problem = "shows an image, and a language model alone sees none: smol-hf compose gives it an encoder"
            raise SampleError(shape.conversation.sample_id, problem)
        return super().measured(shape, lost)


def content_text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def as_texts(messages: list[dict]) -> list[dict]:
    return [{**message, "content": content_text(message["content"])} for message in messages]
