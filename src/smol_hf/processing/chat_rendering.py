"""A chat template, and the conversations that it writes as token ids and labels.

messages → chat_messages (the form that the template reads) → chat_answers (what is generated)
         → chat_pieces (the template's text, texts, special tokens, images) → chat_encoding (ids, labels)
"""

import copy
import re
from functools import cached_property

from .bounded_rendering import render_bounded
from .chat_answers import find_ending
from .chat_messages import (
    FAULTS,
    ChatTemplateError,
    content_forms,
    for_template,
    untrained,
    write_messages,
)
from .chat_pieces import pieces_of

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


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
        self.shapes = {}

    @property
    def tools(self):
        """The definitions of tools that the template is given."""
        return self.variables.get("tools")

    def with_tools(self, tools):
        """The same renderer with other tools; None or an empty list: without any."""
        if not tools and not self.tools:
            return self
        _ = self.forms  # are the same
        other = copy.copy(self)
        other.shapes, other.variables = {}, {**self.variables, "tools": list(tools) if tools else None}
        return other

    def encode(self, messages, image_blocks=(), asks=False, continues=False, labelled=True, as_asked=False):
        """Messages → (input_ids, labels), -100 where nothing is generated.

        Args:
            messages: `role` and `content` (a text, or parts with `type`), and what else the template reads. One with
                `"trained": False` gets no labels.
            image_blocks: the tokens of each image, in reading order.
            asks: end with what asks the assistant for an answer.
            continues: end within the last message, which is to be continued.
            labelled: whether labels are needed. Without, it does not matter whether they can be known.
            as_asked: refuse a marked answer, too, that the template writes otherwise once more messages follow.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, or the template refuses the messages.
                RewrittenAnswerError is one.
            ValueError: when the template shows another number of images than there are.
        """
        try:
            pieces = pieces_of(self, messages if labelled else untrained(messages), True, asks, continues, as_asked)
        except ChatTemplateError:
            if labelled:
                raise
            pieces = pieces_of(self, messages, False, asks, continues)
        return self.encoder.encode_pieces(*pieces, image_blocks)

    def text(self, messages, asks=False, continues=False):
        """What the template writes, as one string."""
        return self.render(self.in_its_form(messages), asks, continues)[0]

    def render(self, messages, asks=False, continues=False, marked=False):
        """(text, generated spans), the spans only where the template marks them. Raises ChatTemplateError."""
        try:
            (text,), spans = render_bounded(
                conversations=[[for_template(message) for message in messages]],
                chat_template=self.template,
                add_generation_prompt=asks,
                continue_final_message=continues,
                return_assistant_tokens_mask=marked,
                **self.variables,
            )
        except FAULTS as error:
            raise ChatTemplateError(f"the chat template refuses it: {error}") from error
        return text, [(start, min(end, len(text))) for start, end in spans[0]] if marked else []

    @cached_property
    def forms(self):
        """The forms of `content` that the template reads, see `content_forms`."""
        return content_forms(self.template, self.variables)

    @cached_property
    def end_of_turn(self):
        """See `find_ending`."""
        return find_ending(self)

    def in_its_form(self, messages):
        return write_messages(messages, self.forms, str)

    def shells(self, messages):
        """(messages with a placeholder for each text, the texts). Templates treat empty texts in their own way."""
        texts = []

        def placeholder(text):
            texts.append(text)
            return f"\ue000{len(texts) - 1}\ue001" if text else ""

        return write_messages(messages, self.forms, placeholder), texts
