"""Display texts unchanged: `<image>` is shown as seven characters, not as an image. Markdown is rendered."""

import re
from collections.abc import Callable

CODE = re.compile(r"(```.*?(?:```|$)|`[^`\n]*`)", flags=re.DOTALL)  # shown literally in any case
TAG = re.compile(r"<(?=[A-Za-z/!?])")
ENTITY = re.compile(r"&(?=#?\w+;)")


def escaped(text: str) -> str:
    """Return the HTML that a browser displays as `text`. Only characters of tags and entities are replaced."""
    return outside_code(text, lambda piece: TAG.sub("&lt;", ENTITY.sub("&amp;", piece)))


def unescaped(text: str) -> str:
    """Reverse `escaped`."""
    return outside_code(text, lambda piece: piece.replace("&lt;", "<").replace("&amp;", "&"))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    pieces = CODE.split(text)
    return "".join(piece if place % 2 else change(piece) for place, piece in enumerate(pieces))


def literal(chatbot):
    """Make a chatbot display texts literally, and return it."""
    to_page, from_page = chatbot.postprocess, chatbot.preprocess

    def postprocess(value):
        data = to_page(value)
        for message in data.root:
            for part in message.content:
                if part.type == "text":
                    part.text = escaped(part.text)
        return data

    def preprocess(payload):
        messages = from_page(payload)
        for message in messages:
            for part in message["content"]:
                if part["type"] == "text":
                    part["text"] = unescaped(part["text"])
        return messages

    chatbot.postprocess, chatbot.preprocess = postprocess, preprocess
    return chatbot
