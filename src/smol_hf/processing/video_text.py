"""The prompt text of a video: an introduction, and the time before each frame.

A video becomes text and single-tile images before the chat template is rendered. Training, `apply_chat_template`,
`chat` and `generate` share this one function:

    {"type": "video"}  →  "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n"
                          "\nFrame from 00:00:" image  "\nFrame from 00:01:" image  "\n\n"
"""

from datetime import timedelta
from typing import NamedTuple

FRAME = None  # in a list of image sizes: a frame of a video, one tile at any size
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class VideoStyle(NamedTuple):
    """The text before the frames, before each frame, and after the frames."""

    introduction: str
    frame: str
    after: str


# The text of transformers' SmolVLMProcessor, which other engines write too.
STYLES = {
    "smolvlm": VideoStyle(
        "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n",
        "\nFrame from {minutes:02d}:{seconds:02d}:",
        "\n\n",
    ),
}


def in_words(number):
    """Write a number from 0 to 999 in English words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{rest}"


def video_parts(frames, style):
    """Write a video as the parts of a message.

    Args:
        frames: the `FrameTimes` of the video.
        style: a key of `STYLES`.
    """
    introduction, stamp, after = STYLES[style]
    duration = timedelta(seconds=int(frames.duration))
    text, parts = introduction.format(count=in_words(len(frames.times)), duration=duration), []
    for time in frames.times:
        text += stamp.format(minutes=int(time // 60), seconds=int(time % 60))
        parts += [{"type": "text", "text": text}, {"type": "image"}]
        text = ""
    return [*parts, {"type": "text", "text": after}]


def expand_videos(messages, media, style):
    """Replace each video of a conversation by text and images → (messages, sizes of all images).

    Args:
        messages: in which a video is a part {"type": "video"}.
        media: in reading order, the (height, width) of an image, or the `FrameTimes` of a video.
        style: a key of `STYLES`.

    Returns:
        The messages, and for each image part (height, width), or FRAME for a frame.
    """
    videos = iter(each for each in media if hasattr(each, "times"))
    sizes = [size for each in media for size in ([FRAME] * len(each.times) if hasattr(each, "times") else [each])]
    if not any(hasattr(each, "times") for each in media):
        return messages, sizes
    expanded = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            written = [video_parts(next(videos), style) if part.get("type") == "video" else [part] for part in content]
            message = {**message, "content": [part for parts in written for part in parts]}
        expanded.append(message)
    return expanded, sizes
