"""A conversation → the sequences that are trained.

A conversation is one sequence, unless the template changes an answer when more messages follow. Qwen3's template, for
example, removes the reasoning of earlier answers. Then each answer becomes its own sequence, after the text that the
template writes before it at that time. Each sequence repeats the images, tools and texts of earlier turns.
"""

from typing import NamedTuple

from .chat_format import (
    EXAMPLE,
    TURN_MARK,
    ChatTemplateError,
    RewrittenAnswerError,
    is_trained,
    number_of_images,
    untrained,
)  # fmt: skip

# Keys of a message that the template may omit. Those of a tool's result repeat the call.
OPTIONAL = ("role", "content", TURN_MARK, "name", "tool_call_id")


class TrainedSequence(NamedTuple):
    """`input_ids` and `labels` (-100: not trained) of equal length. They show the first `num_images` images."""

    input_ids: list[int]
    labels: list[int]
    num_images: int


def encode_turns(renderer, messages, image_blocks=lambda number: ()):
    """Encode a conversation as `TrainedSequence`s.

    Args:
        renderer: a `ChatRenderer`, with the conversation's tools.
        messages: see `ChatRenderer.encode`.
        image_blocks: n → the tokens of each of the first n images, for a conversation with only these.

    Raises:
        ChatTemplateError: see `ChatRenderer.encode`; also for a field that the template does not write.
    """

    def encoded(messages):
        number = number_of_images(messages)
        input_ids, labels = renderer.encode(messages, image_blocks(number), refuse_rewritten=True)
        return TrainedSequence(input_ids, labels, number)

    refuse_unwritten_fields(renderer, messages)
    try:
        return [encoded(messages)]
    except RewrittenAnswerError:
        ends = [end for end, message in enumerate(messages, start=1) if is_trained(message)]
        return [encoded([*untrained(messages[: end - 1]), messages[end - 1]]) for end in ends]


def rewrites_answers(processor):
    """Tell if the template of a processor is known to change answers when more messages follow."""
    try:
        return len(processor.encode_turns([*EXAMPLE, *EXAMPLE])) > 1
    except ChatTemplateError:
        return False  # the template takes no conversation with several answers


def refuse_unwritten_fields(renderer, messages):
    """Raise ChatTemplateError for tools, and for a key of a message, that the template does not write.

    Such a field can be removed without changing the rendered text up to its message. A key of a trained answer must
    also be inside the marks, if the template marks generated text.
    """
    for index, message in enumerate(messages):
        before = messages[:index]
        for key in [key for key, value in message.items() if key not in OPTIONAL and value is not None]:
            shorter = {name: value for name, value in message.items() if name != key}
            refuse_unwritten(
                f"message {index + 1} has {key!r}",
                key,
                parts_written(renderer, [*before, message]),
                parts_written(renderer, [*before, shorter]),
                is_trained(message) and renderer.is_marked,
            )
    if renderer.variables.get("tools"):
        bare = renderer.with_tools(None)
        refuse_unwritten(
            "has 'tools'", "tools", parts_written(renderer, messages), parts_written(bare, messages), False
        )


def refuse_unwritten(field, key, complete, without, is_marked):
    if complete is None or without is None:
        return
    remedy = f"remove it, train without it (ignore_fields: [{key}]), or choose another chat_template"
    if complete[0] == without[0]:
        raise ChatTemplateError(f"{field}, which the chat template does not write: {remedy}")
    if is_marked and complete[1] == without[1]:
        raise ChatTemplateError(f"{field}, which the chat template does not mark as generated: {remedy}")


def parts_written(renderer, messages):
    """Render messages → (text, its marked parts), or None if the template rejects them."""
    try:
        text, spans = renderer.render(renderer.in_its_form(messages), marked=renderer.is_marked)
    except ChatTemplateError:
        return None
    return text, "".join(text[start:end] for start, end in spans)
