"""Messages in the chat format, with texts or with placeholders, in the form that a chat template reads."""

from transformers.utils.chat_template_utils import jinja2

from .bounded_rendering import render_bounded
from .chat_encoding import PLACEHOLDER


class ChatTemplateError(ValueError):
    """A conversation that a chat template cannot write so that it is known what is generated."""


class RewrittenAnswerError(ChatTemplateError):
    """A template that writes an answer otherwise once more messages follow."""


# What a template raises about messages that it does not read. A range that the sandbox refuses is an ArithmeticError.
FAULTS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
TURN_MARK = "trained"  # a message where it is False gets no labels
IMAGE_TYPES = ("image", "image_url")
REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one field; each template reads one of them
EXAMPLE = (
    {"role": "user", "content": "Who wrote this?"},
    {"role": "assistant", "content": "Nobody knows, sadly."},
)
TRIMMED = (
    str, str.strip, str.lstrip, str.rstrip,
    lambda text: text.strip("\n"), lambda text: text.lstrip("\n"), lambda text: text.rstrip("\n"),
)  # fmt: skip


def place_holder(number):
    return f"\ue000{number}\ue001"


def content_forms(template, variables):
    """Some of "text" and "parts": in which form the template reads what a message says. Both, when neither is seen."""
    text, found = place_holder(0), []
    for form, content in (("text", text), ("parts", [{"type": "text", "text": text}])):
        try:
            (written,), _ = render_bounded(
                conversations=[[{"role": "user", "content": content}]], chat_template=template, **variables
            )
        except FAULTS:  # a form that it does not read
            continue
        if text in written and not any(name in written for name in ("'text'", '"text"')):
            found.append(form)
    return tuple(found) or ("text", "parts")


def write_messages(messages, forms, write):
    """The messages with `write(text)` for each text, in a form that the template reads. Images become
    `{"type": "image"}`."""
    return [{**message, "content": write_content(message.get("content"), forms, write)} for message in messages]


def write_content(content, forms, write):
    if content is None:
        return None
    if isinstance(content, str):
        return write(content) if "text" in forms else [{"type": "text", "text": write(content)}]
    types = [part_type(part) for part in content]
    if "parts" not in forms and set(types) <= {"text"}:
        return write("".join(part["text"] for part in content))
    return [
        {"type": "image"} if kind == "image" else {**part, "text": write(part["text"])}
        for kind, part in zip(types, content)
    ]


def part_type(part):
    """ "text" or "image". Raises ValueError for a part of another type."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in IMAGE_TYPES:
        return "image"
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            f"a part has the type {kind!r}: text or image" if kind != "text" else "a text part has no text"
        )
    return kind


def numbers_in(content):
    """The numbers of the placeholders in a message's content."""
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
    return [int(match.group(1)) for text in texts for match in PLACEHOLDER.finditer(text)]


def number_of_images(messages):
    """The number of image parts in messages."""
    contents = [message.get("content") for message in messages]
    return sum(part_type(part) == "image" for parts in contents if isinstance(parts, list) for part in parts)


def is_trained(message):
    """Whether a message is an answer that gets labels."""
    return message["role"] == "assistant" and message.get(TURN_MARK, True)


def for_template(message):
    """A message as the template reads it: without our mark, and with its reasoning under all names."""
    message = {key: value for key, value in message.items() if key != TURN_MARK}
    given = {name: message[name] for name in REASONING if message.get(name) is not None}
    return {**message, **dict.fromkeys(REASONING, next(iter(given.values()))), **given} if given else message


def untrained(messages):
    """The messages without any that gets labels."""
    return [{**message, TURN_MARK: False} for message in messages]


def fitted(text, literals, texts):
    """The texts as the template wrote them between its own words, each whole or trimmed; None where it did not."""
    if text == literals[0] + "".join(each + after for each, after in zip(texts, literals[1:])):
        return texts
    if not text.startswith(literals[0]):
        return None
    position, found = len(literals[0]), []
    for number, each in enumerate(texts, start=1):
        for trimmed in dict.fromkeys(trim(each) for trim in TRIMMED):
            rest = trimmed + literals[number]
            is_last = number == len(texts)
            if text.startswith(rest, position) and (not is_last or len(text) == position + len(rest)):
                found.append(trimmed)
                position += len(rest)
                break
        else:
            return None
    return found
