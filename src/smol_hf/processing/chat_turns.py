"""A conversation → the sequences that are trained. Its videos become text and images first.

A conversation is one sequence, unless the template changes an answer when more messages follow. Qwen3's template, for
example, removes the reasoning of earlier answers. Then each answer becomes its own sequence, after the text that the
template writes before it at that time. Each sequence repeats the images, tools and texts of earlier turns.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .chat_format import EXAMPLE, TURN_MARK, ChatTemplateError, RewrittenAnswerError, is_trained, untrained
from .chat_pieces import part_type
from .image_input import shown_value
from .video_styles import STYLES, introduce
from .video_text import sizes_of_images, video_parts

# Keys of a message that the template may omit. Those of a tool's result repeat the call.
OPTIONAL = ("role", "content", TURN_MARK, "name", "tool_call_id")


class TrainedSequence(NamedTuple):
    """`input_ids` and `labels` (-100: not trained) of equal length. They show the first `num_images` images."""

    input_ids: list[int]
    labels: list[int]
    num_images: int


def conversations_of(given):
    """List the conversations of a call → (lists of messages, whether several were given).

    Raises:
        ValueError: for a conversation without messages.
        TypeError: for another value than messages, or lists of them.
    """
    first = given[0] if is_list(given) and len(given) else None
    is_batch = is_list(first) or hasattr(first, "messages")
    conversations = [getattr(each, "messages", each) for each in (given if is_batch else [given])]
    for messages in conversations:
        if is_list(messages) and not len(messages):
            raise ValueError("the conversation is empty: give a list of messages")
        if not is_list(messages) or not all(isinstance(message, Mapping) for message in messages):
            raise TypeError(
                f'a conversation is {shown_value(messages)}: give a list of messages {{"role": …, "content": …}}'
            )
        for content in (message.get("content") for message in messages):
            if content is not None and not isinstance(content, str) and not is_list(content):
                raise TypeError(f"the content of a message is {shown_value(content)}: give a text or a list of parts")
    return conversations, is_batch


def is_list(value):
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def expand_videos(messages, media, style):
    """Write each video of a conversation as text and images, and what the style adds → (messages, sizes of images).

    Args:
        messages: in which a video is a part {"type": "video"}.
        media: in reading order, the (height, width) of an image, or the `FrameTimes` of a video.
        style: a key of `STYLES`.

    Returns:
        The messages, and for each image part (height, width), or FRAME for a frame.
    """
    style = STYLES[style]
    messages = introduce(messages, style) if style.after_media else messages
    videos, expanded, shown = [each for each in media if hasattr(each, "times")], [], 0
    for message in messages:
        if isinstance(message.get("content"), (list, tuple)):
            parts = []
            for part in message["content"]:
                is_video = part_type(part) == "video"
                parts += video_parts(videos[shown], style) if is_video and shown < len(videos) else [part]
                shown += is_video
            message = {**message, "content": parts}
        expanded.append(message)
    if shown != len(videos):
        raise ValueError(f"the text shows {shown} videos, but {len(videos)} were given: give one for each")
    return expanded, sizes_of_images(media) if videos else list(media)


def encode_turns(renderer, messages, image_sizes=(), image_blocks=None):
    """Encode a conversation as `TrainedSequence`s.

    Args:
        renderer: a `ChatRenderer`, with the conversation's tools.
        messages: see `ChatRenderer.encode`.
        image_sizes: of the images of the conversation.
        image_blocks: sizes of images → the tokens of each, for a conversation with only these images; None: no images.

    Raises:
        ChatTemplateError: see `ChatRenderer.encode`; also for a field that the template does not write.
    """
    refuse_unwritten_fields(renderer, messages)
    try:
        blocks = image_blocks(image_sizes) if image_blocks else ()
        input_ids, labels = renderer.encode(messages, blocks, refuse_rewritten=True)
        return [TrainedSequence(input_ids, labels, len(image_sizes))]
    except RewrittenAnswerError:
        sequences = []
    shown = 0
    for index, message in enumerate(messages):
        content = message.get("content")
        shown += sum(part_type(part) == "image" for part in content) if isinstance(content, list) else 0
        if is_trained(message):
            seen = [*untrained(messages[:index]), message]
            blocks = image_blocks(image_sizes[:shown]) if image_blocks else ()
            input_ids, labels = renderer.encode(seen, blocks, refuse_rewritten=True)
            sequences.append(TrainedSequence(input_ids, labels, shown))
    return sequences


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
        for key in [key for key, value in message.items() if key not in OPTIONAL and value is not None]:
            shorter = {name: value for name, value in message.items() if name != key}
            complete, without = [*messages[:index], message], [*messages[:index], shorter]
            marked = is_trained(message) and renderer.is_marked
            refuse_unwritten(f"message {index + 1} has", key, (renderer, complete), (renderer, without), marked)
    if renderer.variables.get("tools"):
        refuse_unwritten("has", "tools", (renderer, messages), (renderer.with_tools(None), messages), False)


def refuse_unwritten(owner, key, complete, without, is_marked):
    """Raise ChatTemplateError if the pairs (renderer, messages) `complete` and `without` the key are written alike."""
    try:
        written = [renderer.text(messages, marked=renderer.is_marked) for renderer, messages in (complete, without)]
    except ChatTemplateError:
        return  # the template rejects them, which is another error
    remedy = f"remove it, train without it (ignore_fields: [{key}]), or choose another chat_template"
    if written[0][0] == written[1][0]:
        raise ChatTemplateError(f"{owner} {key!r}, which the chat template does not write: {remedy}")
    generated = ["".join(text[start:end] for start, end in spans) for text, spans in written]
    if is_marked and generated[0] == generated[1]:
        raise ChatTemplateError(f"{owner} {key!r}, which the chat template does not mark as generated: {remedy}")
