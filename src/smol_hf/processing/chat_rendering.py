"""A chat template, which writes messages within a time limit: transformers' sandbox does not stop endless loops.

messages → chat_pieces (the form that the template reads) → chat_rendering (text) → chat_answers (spans of answers)
         → chat_pieces (the template's text, texts, special tokens, images) → chat_encoding (ids, labels)
"""

import copy
import ctypes
import os
import re
import threading
import time
from functools import cached_property

from transformers.utils.chat_template_utils import render_jinja_template

from .chat_answers import find_ending
from .chat_format import FAULTS, ChatTemplateError, for_template, untrained
from .chat_pieces import content_forms, pieces_of, with_placeholders

SECONDS = 5.0  # a template takes less than a millisecond
POLL = 0.25
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class EndlessTemplateError(RuntimeError):
    """A chat template that did not end in time. It is none of `FAULTS`, so that no caller tries the next sample."""


class Watchdog:
    """One thread that raises an exception in rendering threads after their deadlines, between two bytecodes."""

    def __init__(self):
        self.lock = threading.Lock()
        self.deadlines = {}  # identifier of a rendering thread → its deadline
        self.is_running = False

    def watch(self):
        while True:
            time.sleep(POLL)
            with self.lock:
                for thread, deadline in self.deadlines.items():
                    if time.monotonic() > deadline:
                        fault = ctypes.py_object(EndlessTemplateError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), fault)
                if not self.deadlines:
                    self.is_running = False
                    return


WATCHDOG = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.__init__)  # the thread is not copied, and the lock may be held


def render_bounded(seconds=SECONDS, **arguments):
    """Call transformers' `render_jinja_template` for at most `seconds`. Raises EndlessTemplateError."""
    try:
        with WATCHDOG.lock:
            WATCHDOG.deadlines[threading.get_ident()] = time.monotonic() + seconds
            if not WATCHDOG.is_running:
                WATCHDOG.is_running = True
                threading.Thread(target=WATCHDOG.watch, daemon=True).start()
        try:
            return render_jinja_template(**arguments)
        finally:
            with WATCHDOG.lock:
                WATCHDOG.deadlines.pop(threading.get_ident(), None)
    except EndlessTemplateError:
        problem = f"the chat template did not end within {seconds:g} s: it loops; replace chat_template.jinja"
        raise EndlessTemplateError(problem) from None


class ChatRenderer:
    """Writes conversations with one chat template (Jinja text), as text or as token ids.

    `encoder`: a `ChatEncoder`. `variables`: further ones of the template, such as `tools`.
    """

    def __init__(self, encoder, template, variables=None):
        self.encoder, self.template = encoder, template
        self.variables = {**encoder.variables, **(variables or {})}
        self.is_marked = MARKED.search(template) is not None
        self.skeletons = {}  # see `chat_pieces.skeleton_of`

    def with_tools(self, tools):
        """Return this renderer with other tools, or without."""
        if not tools and not self.variables.get("tools"):
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
            add_generation_prompt, continue_final_message: end where an answer begins, or within the last message.
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

    def text(self, messages, *ends, marked=False):
        """Write messages in any form → (text, generated spans). `ends`: the first options of `render`."""
        _, messages, _ = with_placeholders(messages, self.forms)
        return self.render(messages, *ends, marked=marked)

    def render(self, messages, add_generation_prompt=False, continue_final_message=False, marked=False):
        """Write messages → (text, generated spans). Spans are found only by marks. Raises ChatTemplateError."""
        try:
            (text,), spans = render_bounded(
                conversations=[[for_template(each) if len(each) > 2 else each for each in messages]],
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
        """See `content_forms`."""
        return content_forms(self)

    @cached_property
    def end_of_turn(self):
        """The text that ends an answer, and its last token, see `find_ending`."""
        return find_ending(self)
