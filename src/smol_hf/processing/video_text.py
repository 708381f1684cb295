"""The prompt text of videos: an introduction, and the time before each frame.

A video becomes text and single-tile images before the chat template is rendered. Training, `apply_chat_template`,
`chat` and `generate` share this text:

    {"type": "video"}  →  "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n"
                          "\nFrame from 00:00:" image  "\nFrame from 00:01:" image  "\n\n"
"""

from datetime import timedelta

from .chat_format import ChatTemplateError
from .chat_pieces import part_type
from .video_styles import STYLES, introduce, text_part

FRAME = None  # in a list of image sizes: a frame of a video, one tile at any size
VIDEO = "<video>"  # in a prompt of `apply_chat_template(…, tokenize=False)`: a complete video
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def video_style_of(name):
    """Return a style by its name. Raises ValueError for an unknown one."""
    if name not in STYLES:
        raise ValueError(f"video_style {name!r}: choose one of {', '.join(STYLES)}")
    return STYLES[name]


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
        style: a `VideoStyle`.
    """
    duration = timedelta(seconds=frames.duration if style.with_fractions else int(frames.duration))
    text, parts = style.introduction.format(count=in_words(len(frames.times)), duration=duration), []
    for time in frames.times:
        text += style.frame.format(minutes=int(time // 60), seconds=int(time % 60))
        parts += [text_part(text), {"type": "image"}]
        text = ""
    return [*parts, text_part(style.after)] if style.after else parts


def expand_prompt(prompt, media, style, image_token):
    """Write the videos of a prompt that shows them as VIDEO → (prompt, sizes of images), see `expand_videos`."""
    first, *others = prompt.split(VIDEO) if any(hasattr(each, "times") for each in media) else [prompt]
    for video, after in zip((each for each in media if hasattr(each, "times")), others):
        first += "".join(part.get("text", image_token) for part in video_parts(video, STYLES[style])) + after
    return first, sizes_of_images(media)


def show_videos(renderer, messages, style, *ends):
    """Render messages with VIDEO for each video.

    Raises:
        ChatTemplateError: for a template that does not write it, and for a part of a video, which VIDEO cannot name.
    """
    contents = [message["content"] for message in messages if isinstance(message.get("content"), (list, tuple))]
    videos = [part for parts in contents for part in parts if part_type(part) == "video"]
    if any(part.get(key) is not None for part in videos for key in ("start", "end")):
        raise ChatTemplateError(
            f"a video has a start or an end, which {VIDEO} in a text cannot hold: set tokenize=True"
        )
    messages = introduce(messages, STYLES[style]) if STYLES[style].after_media else messages
    text, _ = renderer.text(messages, *ends)
    if text.count(VIDEO) < len(videos):
        raise ChatTemplateError(f"the chat template does not write {VIDEO} for a video: set tokenize=True")
    return text


def sizes_of_images(media):
    """Replace each video in a list of sizes by FRAME for each frame."""
    return [size for each in media for size in ([FRAME] * len(each.times) if hasattr(each, "times") else [each])]
