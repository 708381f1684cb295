"""A conversation → the sequences that it is trained as.

It is one sequence, unless the template writes an answer otherwise once more messages follow. Qwen3's, for example,
removes the reasoning of earlier answers. Then each answer becomes a sequence of its own, after what the template
writes before it at that time: the images, tools and texts of the turns before are repeated in each.
"""

from typing import NamedTuple

from .chat_messages import (
    EXAMPLE,
    TURN_MARK,
    ChatTemplateError,
    RewrittenAnswerError,
    is_trained,
    number_of_images,
    untrained,
)

# Keys of a message that need not show in what the template writes. Those of a tool's result repeat what the call says.
OPTIONAL = ("role", "content", TURN_MARK, "name", "tool_call_id")


class TrainedSequence(NamedTuple):
    """`input_ids` and `labels` (-100: not trained) of equal length, which show the first `num_images` images."""

    input_ids: list
    labels: list
    num_images: int


def encode_turns(renderer, messages, image_blocks=lambda number: ()):
    """The `TrainedSequence`s of a conversation.

    Args:
        renderer: a `ChatRenderer`, with the conversation's tools.
        messages: see `ChatRenderer.encode`.
        image_blocks: number of images → the tokens of each of the conversation's first images, where the conversation
            ends after them.

    Raises:
        ChatTemplateError: as `ChatRenderer.encode`, and for a field that the template does not write.
    """

    def encoded(messages):
        number = number_of_images(messages)
        return TrainedSequence(*renderer.encode(messages, image_blocks(number), as_asked=True), number)

    refuse_unwritten_fields(renderer, messages)
    try:
        return [encoded(messages)]
    except RewrittenAnswerError:
        ends = [end for end, message in enumerate(messages, start=1) if is_trained(message)]
        return [encoded([*untrained(messages[: end - 1]), messages[end - 1]]) for end in ends]


def rewrites_answers(processor):
    """Whether the template of a processor is known to write answers otherwise once more messages follow."""
    try:
        return len(processor.encode_turns([*EXAMPLE, *EXAMPLE])) > 1
    except ChatTemplateError:
        return False  # it takes no conversation of several answers


def refuse_unwritten_fields(renderer, messages):
    """Raises ChatTemplateError for tools, and for a key of a message, whose removal would not change what the template
    writes up to that message; and for a key of a trained answer that the template does not mark as generated."""
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


def refuse_unwritten(what, key, whole, without, is_marked):
    if whole is None or without is None:
        return
    remedy = f"remove it, train without it (ignore_fields: [{key}]), or name another chat_template"
    if whole[0] == without[0]:
        raise ChatTemplateError(f"{what}, which the chat template does not write: {remedy}")
    if is_marked and whole[1] == without[1]:
        raise ChatTemplateError(f"{what}, which the chat template does not mark as generated: {remedy}")


def parts_written(renderer, messages):
    """(text, what of it is marked as generated), or None where the template refuses the messages."""
    try:
        text, spans = renderer.render(renderer.in_its_form(messages), marked=renderer.is_marked)
    except ChatTemplateError:
        return None
    return text, "".join(text[start:end] for start, end in spans)
