"""Conversations for a language model alone → token ids, and labels on what the assistant generates.

A chat template that marks what is generated (`{% generation %}`) says itself where labels are. Of any other they
follow from what it writes: an answer begins where the template would ask for one (`add_generation_prompt`), and ends
with the first special token after it, without which no answer would ever end. What the template writes of an answer
must not depend on what is said later, or the model would learn another text than it is asked for; such a template is
refused, never guessed at.

Special tokens count only where the template writes them (see `chat_encoding`). Some templates change what a message
says (they trim it, or take out reasoning): the template is rendered once more with the texts in their places, and
what it makes of them is what is tokenised.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby, pairwise
from operator import itemgetter

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import has_generation_markers

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.preparation import MeasuredSample, SampleWork
from smol_hf.data.shortening import Shape
from smol_hf.modeling.chat_encoding import PLACEHOLDER, ChatEncoder, trained_spans

SHAPES_KEPT = 1024
TRIMMED = (
    str, str.strip, str.lstrip, str.rstrip,
    lambda text: text.strip("\n"), lambda text: text.lstrip("\n"), lambda text: text.rstrip("\n"),
)  # fmt: skip
EXAMPLE = ("Who wrote this?", "Nobody knows, sadly.")


class ChatTemplateError(ValueError):
    """A conversation that a chat template cannot write so that it is known what is generated."""


class TurnEncoder(ChatEncoder):
    """Text that is generated is tokenised by itself: no token reaches over the end of a prompt, since at inference
    none does."""

    def encode_run(self, run, input_ids, labels):
        pieces = list(run)
        run.clear()
        for _, part in groupby(pieces, key=itemgetter(1)):
            super().encode_run(list(part), input_ids, labels)


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
        self.is_marked = has_generation_markers(self.template)
        self.shapes: dict = {}

    def __getstate__(self):
        # Rebuilt where it is needed, in a data loader's worker.
        return {"tokenizer": self.tokenizer, "template": self.template, "is_marked": self.is_marked, "shapes": {}}

    @cached_property
    def encoder(self) -> TurnEncoder:
        return TurnEncoder(self.tokenizer, None, set(self.tokenizer.all_special_tokens))

    def encode_text(self, messages: list[dict], image_sizes=()) -> tuple[list[int], list[int]]:
        """(input_ids, labels), -100 where nothing is generated.

        Args:
            messages: `role` and `content`, a text or a list of parts that are texts. One with `"trained": False` gets
                no labels.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, or the template refuses the messages.
        """
        return self.encoder.encode_pieces(*self.pieces(messages, labelled=True), ())

    def prompt_ids(self, messages: list[dict]) -> list[int]:
        """The tokens up to where the assistant's turn begins. Raises ChatTemplateError."""
        try:
            pieces = self.pieces(messages, labelled=True, asks=True)
        except ChatTemplateError:  # it cannot be trained on, and asked all the same
            pieces = self.pieces(messages, labelled=False, asks=True)
        return self.encoder.encode_pieces(*pieces, ())[0]

    def tiles(self, images) -> np.ndarray:
        return np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)

    @cached_property
    def end_of_turn(self) -> tuple[str, str]:
        """(what ends an answer, the token that it ends with): a special token, or several up to the tokenizer's own
        end token. Raises ChatTemplateError where there is none."""
        shells = shells_of(self.example(), list(EXAMPLE))
        text, spans = self.render(shells, marked=self.is_marked)
        begin = text.find(shells[1]["content"])
        if begin < 0:
            raise ChatTemplateError("the chat template leaves out what the assistant says")
        begin += len(shells[1]["content"])
        stop = max((stop for _, stop in spans), default=begin) if self.is_marked else len(text)
        tokens = list(self.encoder.piece.finditer(text, begin, stop))
        if not tokens:
            raise ChatTemplateError(
                f"the chat template ends an answer with {text[begin:stop]!r}, and no special token of the tokenizer "
                "is in it: generation would not stop. Name another chat_template, such as chatml"
            )
        first = last = tokens[0]
        for before, token in pairwise(tokens):
            if token.start() != before.end():
                break
            if token.group(0) == self.tokenizer.eos_token:
                last = token
        return text[first.start() : last.end()], last.group(0)

    def check(self) -> None:
        """Raises ChatTemplateError for a template or a tokenizer that nothing can be trained with."""
        ending, _ = self.end_of_turn
        text, _ = self.render(self.example())
        whole = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = list(self.encoder.split(text, (), texts=False, images=False))
        if self.encoder.encode_pieces(pieces, (), ())[0] != whole:
            raise ChatTemplateError(
                "this tokenizer writes the words after a special token otherwise than at the beginning of a text "
                f"(after {ending}, for one), and conversations of such a one cannot be encoded exactly"
            )
        self.encode_text(self.example())

    @staticmethod
    def example() -> list[dict]:
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), EXAMPLE)]

    # What the template writes --------------------------------------------------------------------------------

    def render(self, messages: list[dict], asks: bool = False, marked: bool = False) -> tuple[str, list]:
        """(text, generated spans), the spans only where the template marks them."""
        try:
            (text,), spans = render_jinja_template(
                conversations=[[without_mark(message) for message in messages]],
                chat_template=self.template,
                add_generation_prompt=asks,
                return_assistant_tokens_mask=marked,
                **dict(self.encoder.variables),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise ChatTemplateError(f"the chat template refuses it: {error}") from error
        return text, [tuple(span) for span in spans[0]] if marked else []

    def written(self, messages: list[dict], asks: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """(text, spans of it that the assistant generates). Raises ChatTemplateError."""
        text, spans = self.render(messages, asks, self.is_marked)
        if self.is_marked:
            try:
                return text, trained_spans(spans, [(message["role"], is_trained(message)) for message in messages])
            except ValueError as error:
                raise ChatTemplateError(str(error)) from error
        ending, _ = self.end_of_turn
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or not is_trained(message):
                continue
            what = f"message {index + 1}, the assistant's"
            prompt, turn = self.render(messages[:index], asks=True)[0], self.render(messages[: index + 1])[0]
            if not turn.startswith(prompt):
                raise ChatTemplateError(f"the chat template writes {what}, otherwise than it asks for it")
            end = turn.find(ending, len(prompt))
            if end < 0:
                raise ChatTemplateError(f"the chat template ends {what}, without {ending}")
            end += len(ending)
            if not text.startswith(turn[:end]):
                raise ChatTemplateError(
                    f"the chat template writes {what}, otherwise once more messages follow, so that the model would "
                    "not learn what it is asked for: train on conversations of one answer, or name another "
                    "chat_template (one that writes all answers alike, and marks them with {% generation %})"
                )
            spans.append((len(prompt), end))
        return text, spans

    def written_shape(self, messages: list[dict], texts: list[str], labelled: bool, asks: bool) -> tuple:
        """(literal pieces of text around the messages' places, numbers of these messages, pieces for the encoder)."""
        turns = tuple((message["role"], is_trained(message), not text) for message, text in zip(messages, texts))
        key = (turns, labelled, asks)
        if key not in self.shapes:
            shells = shells_of(messages, texts)
            text, spans = self.written(shells, asks) if labelled else self.render(shells, asks)
            literals = PLACEHOLDER.split(text)
            numbers = [int(number) for number in literals[1::2]]
            if labelled:
                self.check_places(shells, numbers, text, spans)
            if len(self.shapes) >= SHAPES_KEPT:
                self.shapes.clear()
            self.shapes[key] = literals[::2], numbers, list(self.encoder.split(text, spans))
        return self.shapes[key]

    def check_places(self, shells: list[dict], numbers: list[int], text: str, spans) -> None:
        for number, shell in enumerate(shells):
            if not shell["content"]:
                continue
            role = shell["role"]
            if numbers.count(number) != 1:
                how = "twice" if number in numbers else "not at all"
                raise ChatTemplateError(f"the chat template writes message {number + 1}, of the {role}, {how}")
            place = text.index(shell["content"])
            asked = role == "assistant" and is_trained(shell)
            if not self.is_marked and asked and not any(start <= place < end for start, end in spans):
                raise ChatTemplateError(f"the chat template ends message {number + 1}, before it says anything")
        if not spans and any(shell["role"] == "assistant" and is_trained(shell) for shell in shells):
            raise ChatTemplateError("the chat template marks nothing of it as generated")

    def pieces(self, messages: list[dict], *, labelled: bool, asks: bool = False) -> tuple[list, list[str]]:
        """(pieces for the encoder, the texts that belong into them)."""
        texts = [content_text(message["content"]) for message in messages]
        messages = [{**message, "content": text} for message, text in zip(messages, texts)]
        literals, numbers, pieces = self.written_shape(messages, texts, labelled, asks)
        text, _ = self.render(messages, asks)
        found = fitted(text, literals, [texts[number] for number in numbers])
        if found is not None:
            return pieces, [dict(zip(numbers, found)).get(number, "") for number in range(len(texts))]
        for number, each in enumerate(texts, start=1):
            if special := self.encoder.piece.search(each):
                raise ChatTemplateError(
                    f"the chat template changes what the messages say, and message {number} holds "
                    f"{special.group(0)!r}, which would become a special token"
                )
        text, spans = self.written(messages, asks) if labelled else (text, ())
        return list(self.encoder.split(text, spans, texts=False)), []


class TextChatWork(SampleWork):
    """The engine's work on conversations for a language model alone; `processor` is a `TextChat`."""

    def measured(self, shape: Shape, lost: str = "") -> MeasuredSample:
        where = shape.conversation.sample_id
        if shape.conversation.images:
            raise SampleError(
                where, "shows an image, and a language model alone sees none: smol-hf compose gives it an encoder"
            )
        try:
            return super().measured(shape, lost)
        except ChatTemplateError as error:
            raise SampleError(where, str(error)) from error


def content_text(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def is_trained(message: dict) -> bool:
    return message.get("trained", True)


def without_mark(message: dict) -> dict:
    return {key: value for key, value in message.items() if key != "trained"}


def shells_of(messages: list[dict], texts: list[str]) -> list[dict]:
    """The messages with a placeholder for each text; templates treat empty ones in their own way."""
    return [
        {**message, "content": f"\ue000{number}\ue001" if text else ""}
        for number, (message, text) in enumerate(zip(messages, texts))
    ]


def fitted(text: str, literals: list[str], texts: list[str]) -> list[str] | None:
    """The texts as the template wrote them between its own words, each whole or trimmed; None where it did not."""
    if text == literals[0] + "".join(each + after for each, after in zip(texts, literals[1:])):
        return texts
    if not text.startswith(literals[0]):
        return None
    position, found = len(literals[0]), []
    for number, each in enumerate(texts, start=1):
        for trimmed in dict.fromkeys(trim(each) for trim in TRIMMED):
            rest = trimmed + literals[number]
            is_last = number == len(texts)
            if text.startswith(rest, position) and (not is_last or len(text) == position + len(rest)):
                found.append(trimmed)
                position += len(rest)
                break
        else:
            return None
    return found
