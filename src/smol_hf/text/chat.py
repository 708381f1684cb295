"""Conversations for a text-only model → token ids, and labels on what the assistant generates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from smol_hf.data.conversation import SampleError
from smol_hf.data.media.videos import ListedVideo
from smol_hf.data.stream.preparation import MeasuredSample, SampleWork
from smol_hf.data.stream.shortening import SampleVersion
from smol_hf.processing.chat_encoding import ChatEncoder
from smol_hf.processing.chat_format import EXAMPLE, ChatTemplateError
from smol_hf.processing.chat_rendering import ChatRenderer
from smol_hf.processing.chat_turns import TrainedSequence, encode_turns, refuse_unwritten_fields


class TextChat:
    """The counterpart of the processor for a text-only model that learns from conversations.

    Args:
        tokenizer: with a chat template.

    Raises:
        ChatTemplateError: if it has none.
    """

    # Read by `SampleWork`; there are no images.
    longest_edge = 0
    tile_size = 1
    image_token_id, image_seq_len = None, 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.chat_template is None:
            raise ChatTemplateError(
                "the tokenizer has no chat template to write conversations with: name one, such as "
                "chat_template: chatml"
            )
        self.tokenizer = tokenizer
        self.template = tokenizer.get_chat_template()

    def __getstate__(self):
        # A data worker rebuilds the encoder.
        return {"tokenizer": self.tokenizer, "template": self.template}

    @cached_property
    def encoder(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer)

    @cached_property
    def renderer(self) -> ChatRenderer:
        return ChatRenderer(self.encoder, self.template)

    @property
    def end_of_turn(self) -> tuple[str, str]:
        """The end of a turn, see `ChatRenderer.end_of_turn`."""
        return self.renderer.end_of_turn

    def encode_text(self, messages: Sequence[dict], image_sizes=()) -> tuple[list[int], list[int]]:
        """Return (input_ids, labels), with -100 for everything that is not generated.

        Args:
            messages: `role` and `content`, a text or a list of text parts. One with `"trained": False` gets no labels.

        Raises:
            ChatTemplateError: if generated text is unknown, or the template refuses the messages or does
                not write one of their fields.
        """
        messages = as_texts(messages)
        refuse_unwritten_fields(self.renderer, messages)
        return self.renderer.encode(messages)

    def encode_turns(self, messages: list[dict], image_sizes=(), tools=None) -> list[TrainedSequence]:
        """Return the sequences of a conversation, see `chat_turns.encode_turns`."""
        return encode_turns(self.renderer.with_tools(tools), as_texts(messages))

    def prompt_ids(self, messages: list[dict], tools=None) -> list[int]:
        """Return the tokens up to the beginning of the assistant's turn. Raises ChatTemplateError."""
        renderer = self.renderer.with_tools(tools)
        return renderer.encode(as_texts(messages), add_generation_prompt=True, labelled=False)[0]

    def with_settings(self, longest_edge: int) -> TextChat:
        """Return the same object: the setting is of images only."""
        return self

    def tiles(self, images) -> np.ndarray:
        return np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)

    def check(self) -> None:
        """Raise ChatTemplateError for a template or a tokenizer that cannot be trained with."""
        ending, _ = self.end_of_turn
        text, _ = self.renderer.text(EXAMPLE)
        whole = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = list(self.encoder.split(text, (), texts=False, images=False))
        if self.encoder.encode_pieces(pieces, (), ())[0] != whole:
            raise ChatTemplateError(
                "this tokenizer encodes a word after a special token differently from one at the beginning "
                f"(for example after {ending}), so conversations cannot be encoded exactly: use another tokenizer"
            )
        self.encode_text(EXAMPLE)


class TextChatWork(SampleWork):
    """The work of a data stream on conversations for a text-only model; `processor` is a `TextChat`."""

    def measured(self, shape: SampleVersion, listed: dict[int, ListedVideo], lost: str = "") -> MeasuredSample:
        conversation = shape.conversation
        if conversation.images or conversation.videos:
            medium = "an image" if conversation.images else "a video"
            problem = f"has {medium}, but the model is text-only: smol-hf compose adds an image encoder"
            raise SampleError(conversation.sample_id, problem)
        return super().measured(shape, listed, lost)


def as_texts(messages: Sequence[dict]) -> list[dict]:
    """Return messages whose parts of text are joined."""
    contents = [message["content"] for message in messages]
    texts = [each if isinstance(each, str) else "".join(part["text"] for part in each) for each in contents]
    return [{**message, "content": text} for message, text in zip(messages, texts)]
