"""A chat template, and the conversations that it writes as token ids and labels.

messages → chat_rendering (the form that the template reads) → chat_answers (spans of generated text)
         → chat_pieces (the template's text, texts, special tokens, images) → chat_encoding (ids, labels)
"""

import copy
import re
from functools import cached_property

from .bounded_rendering import render_bounded
from .chat_answers import find_ending
from .chat_format import FAULTS, ChatTemplateError, for_template, placeholder_of, untrained, write_messages
from .chat_pieces import pieces_of

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def renderer_of(encoder, template):
    """Return the renderer of a template, which is made once for each encoder."""
    if template not in encoder.renderers:
        encoder.renderers[template] = ChatRenderer(encoder, template)
    return encoder.renderers[template]


class ChatRenderer:
    """Writes conversations with one chat template.

    Args:
        encoder: a `ChatEncoder`.
        template: Jinja text.
        variables: further variables of the template, such as `tools`.
    """

    def __init__(self, encoder, template, variables=None):
        self.encoder, self.template = encoder, template
        self.variables = {**encoder.variables, **(variables or {})}
        self.is_marked = MARKED.search(template) is not None
        self.skeletons = {}  # see `chat_pieces.skeleton_of`

    @property
    def tools(self):
        """The definitions of tools that the template receives."""
        return self.variables.get("tools")

    def with_tools(self, tools):
        """Return this renderer with other tools; None or an empty list: without tools."""
        if not tools and not self.tools:
            return self
        _ = self.forms  # cached before the copy, which shares them
        other = copy.copy(self)
        other.skeletons, other.variables = {}, {**self.variables, "tools": list(tools) if tools else None}
        return other

    def encode(
        self, messages, image_blocks=(), add_generation_prompt=False, continue_final_message=False, labelled=True,
        refuse_rewritten=False,
    ):  # fmt: skip
        """Messages → (input_ids, labels), -100 outside trained text.

        Args:
            messages: `role` and `content` (a text, or parts with `type`), and further keys that the template reads.
                A message with `"trained": False` gets no labels.
            image_blocks: the tokens of each image, in reading order.
            add_generation_prompt: end with the text after which the assistant answers.
            continue_final_message: end within the last message, which the model continues.
            labelled: labels are needed. Without them, generated text may be unknown.
            refuse_rewritten: raise RewrittenAnswerError for answers between generation marks, too.

        Raises:
            ChatTemplateError: if generated text is unknown, or the template rejects the messages.
            RewrittenAnswerError: a ChatTemplateError, if the template changes an answer when more messages follow.
            ValueError: if the template shows another number of images.
        """
        ends = add_generation_prompt, continue_final_message
        try:
            pieces = pieces_of(self, messages if labelled else untrained(messages), True, *ends, refuse_rewritten)
        except ChatTemplateError:
            if labelled:
                raise
            pieces = pieces_of(self, messages, False, *ends)
        return self.encoder.encode_pieces(*pieces, image_blocks)

    def text(self, messages, add_generation_prompt=False, continue_final_message=False):
        """Write messages as one string."""
        return self.render(self.in_its_form(messages), add_generation_prompt, continue_final_message)[0]

    def render(self, messages, add_generation_prompt=False, continue_final_message=False, marked=False):
        """Write messages → (text, generated spans). Spans are found only by marks. Raises ChatTemplateError."""
        try:
            (text,), spans = render_bounded(
                conversations=[[for_template(message) for message in messages]],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                return_assistant_tokens_mask=marked,
                **self.variables,
            )
        except FAULTS as error:
            raise ChatTemplateError(f"the chat template rejects the messages: {error}") from error
        return text, [(start, min(end, len(text))) for start, end in spans[0]] if marked else []

    @cached_property
    def forms(self):
        """The forms of `content` that the template reads: some of "text" and "parts"; both if neither is found."""
        text, found = placeholder_of(0), []
        for form, content in (("text", text), ("parts", [{"type": "text", "text": text}])):
            try:
                written, _ = self.render([{"role": "user", "content": content}])
            except ChatTemplateError:  # a form that it does not read
                continue
            if text in written and not any(name in written for name in ("'text'", '"text"')):
                found.append(form)
        return tuple(found) or ("text", "parts")

    @cached_property
    def end_of_turn(self):
        """See `find_ending`."""
        return find_ending(self)

    def in_its_form(self, messages):
        return write_messages(messages, self.forms, str)

    def with_placeholders(self, messages):
        """Replace each text by a placeholder → (messages, texts). Empty texts stay: templates treat them apart."""
        texts = []

        def placeholder(text):
            texts.append(text)
            return placeholder_of(len(texts) - 1) if text else ""

        return write_messages(messages, self.forms, placeholder), texts
