"""Conversations for a text-only model → token ids, and labels on what the assistant generates.

`processing/chat_rendering` reads the chat template, which is anyone's, and says what is labelled.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain

import numpy as np
from transformers import PreTrainedTokenizerBase

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.preparation import MeasuredSample, SampleWork, template_messages
from smol_hf.data.shortening import Shape
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_encoding import ChatEncoder
from smol_hf.processing.chat_messages import EXAMPLE, is_trained, untrained
from smol_hf.processing.chat_rendering import ChatRenderer, ChatTemplateError, RewrittenAnswerError, renderer_of


class TextChat:
    """What stands for the processor where a language model alone learns from conversations.

    Args:
        tokenizer: with a chat template.

    Raises:
        ChatTemplateError: when it has none.
    """

    # No picture is ever cut; `SampleWork` asks.
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
        # Rebuilt where it is needed, in a data loader's worker.
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
            ChatTemplateError: when it cannot be known exactly what is generated, or the template refuses the messages.
        """
        return self.renderer.encode(as_texts(messages))

    def encode_turns(self, messages: list[dict]) -> list[tuple[list[int], list[int]]]:
        """(input_ids, labels) of each sequence that a conversation is trained as.

        It is one, unless the template writes an answer otherwise once more messages follow (Qwen3's takes reasoning
        out of earlier answers). Then each answer is a sequence of its own, after what is written before it then.

        Raises:
            ChatTemplateError: as `encode_text`.
        """
        try:
            return [self.encode_text(messages)]
        except RewrittenAnswerError:
            ends = [end for end, each in enumerate(messages, 1) if each["role"] == "assistant" and is_trained(each)]
            return [self.encode_text([*untrained(messages[: end - 1]), messages[end - 1]]) for end in ends]

    @property
    def rewrites(self) -> bool:
        """Whether the template is known to write answers otherwise once more messages follow."""
        try:
            return len(self.encode_turns([*EXAMPLE, *EXAMPLE])) > 1
        except ChatTemplateError:
            return False  # it takes no conversation of several answers

    def prompt_ids(self, messages: list[dict]) -> list[int]:
        """The tokens up to where the assistant's turn begins. Raises ChatTemplateError."""
        return self.renderer.encode(as_texts(messages), asks=True, labelled=False)[0]

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
    """The engine's work on conversations for a language model alone; `processor` is a `TextChat`."""

    def measured(self, shape: Shape, lost: str = "") -> MeasuredSample:
        where = shape.conversation.sample_id
        if shape.conversation.images:
            raise SampleError(
                where, "shows an image, and a language model alone sees none: smol-hf compose gives it an encoder"
            )
        try:
            turns = self.processor.encode_turns(template_messages(shape.conversation))
        except ChatTemplateError as error:
            raise SampleError(where, str(error)) from error
        for _, labels in turns:
            labels[0] = IGNORE_INDEX  # nothing before it predicts it
        input_ids, labels = (list(chain(*lists)) for lists in zip(*turns))
        lengths = tuple(len(ids) for ids, _ in turns) if len(turns) > 1 else ()
        return MeasuredSample(shape.conversation, input_ids, labels, 0, shape.longest_edge, lost, lengths)


def content_text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def as_texts(messages: list[dict]) -> list[dict]:
    return [{**message, "content": content_text(message["content"])} for message in messages]
