"""What the page keeps of a conversation → chat messages with their pictures."""

import struct
import zlib

from PIL import Image, UnidentifiedImageError
from writer import Problem

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAXIMUM_PIXELS = 50_000_000
NOTE = "Not answered"  # the title of what the page itself says; it belongs to no conversation
# What Pillow's decoders raise about damaged files.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip


def messages_of(history: list[dict], text: str, files: list[str]) -> list[dict]:
    """The turns so far, without those that got no answer, and the new one, pictures before words.

    Raises:
        Problem: for an empty turn, and for what is no picture or a damaged one.
    """
    kept: list[dict] = []
    for message in history:
        if (message.get("metadata") or {}).get("title") != NOTE:
            kept.append(message)
            continue
        while kept and kept[-1]["role"] == "user":
            kept.pop()
    turns = [{"role": message["role"], "content": parts_of(message["content"])} for message in kept]
    turns.append({"role": "user", "content": [*map(picture, files), *words(text)]})
    if not turns[-1]["content"]:
        raise Problem("Write something first.")
    return joined(turns)


def joined(turns: list[dict]) -> list[dict]:
    """Turns of one speaker in a row are one."""
    messages: list[dict] = []
    for turn in turns:
        if messages and messages[-1]["role"] == turn["role"]:
            messages[-1]["content"] += turn["content"]
        else:
            messages.append({"role": turn["role"], "content": list(turn["content"])})
    return messages


def parts_of(content) -> list[dict]:
    """A message's content as Gradio has it: a text, or a list of texts and files."""
    if isinstance(content, str):
        return words(content)
    parts = []
    for part in content:
        if part["type"] == "text":
            parts += words(part["text"])
        else:
            parts.append(picture(part["file"]["path"]))
    return parts


def words(text: str | None) -> list[dict]:
    return [{"type": "text", "text": text}] if text and text.strip() else []


def picture(path: str) -> dict:
    """A part of a message. Raises Problem for what cannot be shown."""
    name = path.replace("\\", "/").split("/")[-1]
    try:
        image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAXIMUM_PIXELS:
            raise Problem(f"{name} has more than {MAXIMUM_PIXELS // 10**6} million pixels: make it smaller.")
        image.load()
    except Problem:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise Problem(
            f"{name} is not a picture that can be read here: it must be one of {', '.join(FORMATS)}."
        ) from error
    except DAMAGE as error:
        raise Problem(f"{name} is damaged or cut off: {error}") from error
    return {"type": "image", "image": image}
