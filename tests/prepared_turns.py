"""Conversations to prepare: parts of their turns, and a source that has them."""

import io

from memory_source import MemorySource
from PIL import Image

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.data.media.images import open_encoded
from smol_hf.data.mixture.mixture import Data, open_mixture


def picture(color, form="PNG", size=(8, 6)):
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, form)
    return stream.getvalue()


RED, BLUE, PHOTO = picture("red"), picture("blue"), picture("green", "JPEG")


def user(*parts):
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def assistant(text):
    return Message("assistant", (TextPart(text),))


def shows(content):
    return ImagePart(content=content)


def data_of(turns, **more):
    rows = [(f"pages:{number}", Conversation(f"pages:{number}", each)) for number, each in enumerate(turns, start=1)]
    return Data([MemorySource("pages.jsonl", rows, **more)], [None], [1.0])


def read(path):
    return list(open_mixture([{"data": str(path)}], "quota").conversations())


def content_of(part):
    if isinstance(part, TextPart):
        return part
    with open_encoded(part) as file:
        return ImagePart(content=file.read())
