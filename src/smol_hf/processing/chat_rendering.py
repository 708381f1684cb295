"""A chat template and a conversation → pieces of text for `chat_encoding`, and which of them the assistant generates.

The template is rendered with a placeholder for each text. What it wrote itself is the only place where special tokens
are recognised. It is rendered once more with the texts in their places, since some templates change what a message
says (they trim it, or take out reasoning): what the template makes of a text is what is tokenised.

A template that marks what is generated (`{% generation %}`) says itself where labels are. Of any other they follow
from what it writes: an answer begins where the template would ask for one (`add_generation_prompt`), and ends with the
first special token after it. What the template writes of an answer must not depend on what is said later, or the model
would learn another text than it is asked for.
"""

import json
import re
from itertools import pairwise

from .bounded_rendering import render_bounded
from .chat_encoding import PLACEHOLDER, TRAINED, UNTRAINED
from .chat_messages import (
    EXAMPLE,
    FAULTS,
    TURN_MARK,
    content_forms,
    fitted,
    flagged_spans,
    is_trained,
    numbers_in,
    place_holder,
    untrained,
    without_mark,
    write_messages,
)

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
SHAPES_KEPT = 1024


class ChatTemplateError(ValueError):
    """A conversation that a chat template cannot write so that it is known what is generated."""


class RewrittenAnswerError(ChatTemplateError):
    """A template that writes an answer otherwise once more messages follow."""


def renderer_of(encoder, template):
    """The renderer of a template, made once for each encoder."""
    if template not in encoder.renderers:
        encoder.renderers[template] = ChatRenderer(encoder, template)
    return encoder.renderers[template]


class ChatRenderer:
    """Args:
    encoder: a `ChatEncoder`.
    template: Jinja text.
    variables: further variables of the template, such as `tools`.
    """

    def __init__(self, encoder, template, variables=None):
        self.encoder, self.template = encoder, template
        self.variables = {**encoder.variables, **(variables or {})}
        self.is_marked = MARKED.search(template) is not None
        self.shapes, self.known_ending, self.known_forms = {}, None, None

    def encode(self, messages, image_blocks=(), asks=False, continues=False, labelled=True):
        """Messages → (input_ids, labels), -100 where nothing is generated.

        Args:
            messages: `role` and `content` (a text, or parts with `type`), and what else the template reads. One with
                `"trained": False` gets no labels.
            image_blocks: the tokens of each image, in reading order.
            asks: end with what asks the assistant for an answer.
            continues: end within the last message, which is to be continued.
            labelled: whether labels are needed. Without, it does not matter whether they can be known.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, or the template refuses the messages.
            ValueError: when the template shows another number of images than there are.
        """
        try:
            pieces = self.pieces(messages if labelled else untrained(messages), True, asks, continues)
        except ChatTemplateError:
            if labelled:
                raise
            pieces = self.pieces(messages, False, asks, continues)
        return self.encoder.encode_pieces(*pieces, image_blocks)

    def text(self, messages, asks=False, continues=False):
        """What the template writes, as one string."""
        return self.render(self.in_its_form(messages), asks, continues)[0]

    def render(self, messages, asks=False, continues=False, marked=False):
        """(text, generated spans), the spans only where the template marks them. Raises ChatTemplateError."""
        try:
            (text,), spans = render_bounded(
                conversations=[[without_mark(message) for message in messages]],
                chat_template=self.template,
                add_generation_prompt=asks,
                continue_final_message=continues,
                return_assistant_tokens_mask=marked,
                **self.variables,
            )
        except FAULTS as error:
            raise ChatTemplateError(f"the chat template refuses it: {error}") from error
        return text, [(start, min(end, len(text))) for start, end in spans[0]] if marked else []

    # What is said, and in which form ---------------------------------------------------------------------------

    @property
    def forms(self):
        """What the template reads as `content`, see `content_forms`."""
        if self.known_forms is None:
            self.known_forms = content_forms(self.template, self.variables)
        return self.known_forms

    def in_its_form(self, messages):
        return write_messages(messages, self.forms, lambda text: text)

    def shells(self, messages):
        """(messages with a placeholder for each text, the texts). Templates treat empty texts in their own way."""
        texts = []

        def placeholder(text):
            texts.append(text)
            return place_holder(len(texts) - 1) if text else ""

        return write_messages(messages, self.forms, placeholder), texts

    def refuse_special_tokens(self, messages):
        """Tool calls and the like are written as they are: nothing keeps them from becoming special tokens."""
        fields = [
            (f"{key} of message {number}", value)
            for number, message in enumerate(messages, start=1)
            for key, value in message.items()
            if key not in ("content", TURN_MARK)
        ]
        fields += [(key, self.variables.get(key)) for key in ("tools", "documents")]
        for name, value in fields:
            if special := self.encoder.special_in(value):
                raise ValueError(f"{name} holds {special!r}, which would become a special token: take it out")

    # Where answers begin and end -------------------------------------------------------------------------------

    @property
    def end_of_turn(self):
        """(what ends an answer, the token that it ends with): a special token, or several up to the tokenizer's own
        end token. Raises ChatTemplateError where there is none."""
        if self.known_ending is None:
            self.known_ending = self.find_ending()
        return self.known_ending

    def find_ending(self):
        shells, _ = self.shells(EXAMPLE)
        text, spans = self.render(shells, marked=self.is_marked)
        answer = place_holder(1)
        if answer not in text:
            raise ChatTemplateError("the chat template leaves out what the assistant says")
        begin = text.index(answer) + len(answer)
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
            if token.group(0) == self.variables.get("eos_token"):
                last = token
        return text[first.start() : last.end()], last.group(0)

    def written(self, messages, asks=False, continues=False):
        """(text, spans of it that the assistant generates). Raises ChatTemplateError."""
        text, spans = self.render(messages, asks, continues, self.is_marked)
        if self.is_marked:
            try:
                return text, flagged_spans(spans, messages)
            except ValueError as error:
                raise ChatTemplateError(str(error)) from error
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                try:
                    spans.append(self.answer_span(text, messages, index, continues and index == len(messages) - 1))
                except ChatTemplateError:
                    if is_trained(message):
                        raise
        return text, spans

    def answer_span(self, text, messages, index, is_open):
        """(start, end, flag) of an answer in what the template writes. One that `is_open` is to be continued."""
        what = f"message {index + 1}, the assistant's"
        prompt = self.render(messages[:index], asks=True)[0]
        turn = text if is_open else self.render(messages[: index + 1])[0]
        if not turn.startswith(prompt):
            raise ChatTemplateError(f"the chat template writes {what}, otherwise than it asks for it")
        end = len(turn)
        if not is_open:
            ending, _ = self.end_of_turn
            end = turn.find(ending, len(prompt))
            if end < 0:
                raise ChatTemplateError(f"the chat template ends {what}, without {ending}")
            end += len(ending)
        if not text.startswith(turn[:end]):
            raise RewrittenAnswerError(
                f"the chat template writes {what}, otherwise once more messages follow, so that the model would "
                "not learn what it is asked for: train on conversations of one answer, or name another "
                "chat_template (one that writes all answers alike, and marks them with {% generation %})"
            )
        return len(prompt), end, TRAINED if is_trained(messages[index]) else UNTRAINED

    # Pieces ----------------------------------------------------------------------------------------------------

    def written_shape(self, messages, labelled, asks, continues):
        """(literal pieces of text around the texts' places, numbers of these texts, pieces for the encoder)."""
        shells, _ = self.shells(messages)
        key = json.dumps([shells, labelled, asks, continues], default=str)
        if key not in self.shapes:
            render = self.written if labelled else self.render
            text, spans = render(shells, asks, continues)
            literals = PLACEHOLDER.split(text)
            numbers = [int(number) for number in literals[1::2]]
            if labelled:
                self.check_places(shells, numbers, text, spans)
            if len(self.shapes) >= SHAPES_KEPT:
                self.shapes.clear()
            self.shapes[key] = literals[::2], numbers, list(self.encoder.split(text, spans))
        return self.shapes[key]

    def check_places(self, shells, numbers, text, spans):
        for index, shell in enumerate(shells, start=1):
            role, is_answer = shell["role"], shell["role"] == "assistant" and is_trained(shell)
            for number in numbers_in(shell["content"]):
                if numbers.count(number) != 1:
                    how = "twice" if number in numbers else "not at all"
                    raise ChatTemplateError(f"the chat template writes message {index}, of the {role}, {how}")
                place = text.index(place_holder(number))
                if is_answer and spans and not any(start <= place < end for start, end, _ in spans):
                    how = "does not mark" if self.is_marked else "ends"
                    what = "as generated" if self.is_marked else "before it says anything"
                    raise ChatTemplateError(f"the chat template {how} message {index}, {what}")
            if not spans and is_answer:
                raise ChatTemplateError("the chat template marks nothing of it as generated")

    def pieces(self, messages, labelled, asks=False, continues=False):
        """(pieces for the encoder, the texts that belong into them)."""
        self.refuse_special_tokens(messages)
        _, texts = self.shells(messages)
        messages = self.in_its_form(messages)
        literals, numbers, pieces = self.written_shape(messages, labelled, asks, continues)
        text, _ = self.render(messages, asks, continues)
        found = fitted(text, literals, [texts[number] for number in numbers])
        if found is not None:
            return pieces, [dict(zip(numbers, found)).get(number, "") for number in range(len(texts))]
        for number, message in enumerate(messages, start=1):
            if special := self.encoder.special_in(message["content"]):
                raise ChatTemplateError(
                    f"the chat template changes what the messages say, and message {number} holds {special!r}, which "
                    "would become a special token"
                )
        text, spans = self.written(messages, asks, continues) if labelled else (text, ())
        return list(self.encoder.split(text, spans, texts=False)), []
