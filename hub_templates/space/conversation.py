"""Turn the page's record of a conversation into chat messages with images and videos."""

import struct
import zlib

from PIL import Image, UnidentifiedImageError
from writer import Problem

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
MAXIMUM_PIXELS = 50_000_000
NOTE = "Not answered"  # title of the page's own messages, which are not part of the conversation
# Exceptions of Pillow's decoders for damaged files.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip


def messages_of(history: list[dict], text: str, files: list[str]) -> list[dict]:
    """Return the answered turns so far and the new one, with images and videos before text.

    Raises:
        Problem: if the new turn is empty, or a file is not an image or damaged.
    """
    kept: list[dict] = []
    for message in history:
        if (message.get("metadata") or {}).get("title") != NOTE:
            kept.append(message)
            continue
        while kept and kept[-1]["role"] == "user":
            kept.pop()
    turns = [{"role": message["role"], "content": parts_of(message["content"])} for message in kept]
    turns.append({"role": "user", "content": [*map(file_part, files), *text_parts(text)]})
    if not turns[-1]["content"]:
        raise Problem("Write something first.")
    return joined(turns)


def joined(turns: list[dict]) -> list[dict]:
    """Join consecutive turns of one role."""
    messages: list[dict] = []
    for turn in turns:
        if messages and messages[-1]["role"] == turn["role"]:
            messages[-1]["content"] += turn["content"]
        else:
            messages.append({"role": turn["role"], "content": list(turn["content"])})
    return messages


def parts_of(content) -> list[dict]:
    """Convert a message's content of Gradio: a text, or a list of texts and files."""
    if isinstance(content, str):
        return text_parts(content)
    parts = []
    for part in content:
        if part["type"] == "text":
            parts += text_parts(part["text"])
        else:
            parts.append(file_part(part["file"]["path"]))
    return parts


def text_parts(text: str | None) -> list[dict]:
    return [{"type": "text", "text": text}] if text and text.strip() else []


def file_part(path: str) -> dict:
    """Make a part of a message of an image or a video. A video is read by the processor."""
    return {"type": "video", "path": path} if path.lower().endswith(VIDEOS) else image_part(path)


def image_part(path: str) -> dict:
    """Read an image as a part of a message. Raises Problem for a file that is not an image or damaged."""
    name = path.replace("\\", "/").split("/")[-1]
    try:
        image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAXIMUM_PIXELS:
            raise Problem(f"{name} has more than {MAXIMUM_PIXELS // 10**6} million pixels: make it smaller.")
        image.load()
    except Problem:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Problem(f"{name} is not an image in a supported format: {', '.join(FORMATS)}.") from error
    except DAMAGE as error:
        raise Problem(f"{name} is damaged or cut off: {error}") from error
    return {"type": "image", "image": image}
