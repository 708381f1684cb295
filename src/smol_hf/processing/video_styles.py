"""The texts that a `video_style` writes around frames, and around other media.

`smolvlm` is the text of transformers' SmolVLMProcessor, which other engines write too. It concerns videos only.

The style `smolvlm2_training` is the text with which SmolVLM2 was trained (github.com/huggingface/smollm at a041759,
vision/smolvlm2), with its texts around images and its system turn. It differs in three rare cases, where that code
leaves out a video or rewrites earlier turns. Here every video is written. Each has its introduction, also after a
text. The sentence after the media follows those of each message, not only of the last one.
"""

from typing import NamedTuple

from .chat_pieces import part_type


class VideoStyle(NamedTuple):
    """The texts of a style.

    Args:
        introduction, frame, after: before the frames of a video, before each frame, and after the frames.
        with_fractions: write fractions of a second of the duration.
        system: a system turn for conversations without one.
        before_images: begins the first turn of the user if it begins with an image.
        after_media: follows the last image or video of a message.
    """

    introduction: str
    frame: str
    after: str = ""
    with_fractions: bool = False
    system: str = ""
    before_images: str = ""
    after_media: str = ""


INTRODUCTION = "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n"
STYLES = {
    "smolvlm": VideoStyle(INTRODUCTION, "\nFrame from {minutes:02d}:{seconds:02d}:", "\n\n"),
    "smolvlm2_training": VideoStyle(
        INTRODUCTION,
        "Frame from {minutes:02d}:{seconds:02d}:",
        with_fractions=True,
        system="You are a helpful language and vision assistant. You are able to understand the visual content that "
        "the user provides, and assist the user with a variety of tasks using natural language.",
        before_images="Here are some images: ",
        after_media="Now answer the following question: ",
    ),
}


def text_part(text):
    return {"type": "text", "text": text}


def introduce(messages, style):
    """Write what a `VideoStyle` adds: a system turn, and texts around the images and videos of a message."""
    if style.system and not any(message.get("role") == "system" for message in messages):
        messages = [{"role": "system", "content": style.system}, *messages]
    written, is_first = [], True
    for message in messages:
        parts = message.get("content")
        if isinstance(parts, (list, tuple)):
            kinds = [part_type(part) for part in parts]
            last = max((index for index, kind in enumerate(kinds, start=1) if kind != "text"), default=0)
            if last:
                before = [text_part(style.before_images)] if is_first and kinds[0] == "image" else []
                parts = [*before, *parts[:last], text_part(style.after_media), *parts[last:]]
            message = {**message, "content": parts}
        is_first = is_first and message.get("role") == "system"
        written.append(message)
    return written
