"""The chat format: special tokens, the default chat template, and messages."""

import re

from transformers.utils.chat_template_utils import jinja2  # pyright: ignore[reportPrivateImportUsage]

FAKE_IMAGE_TOKEN = "<fake_token_around_image>"
IMAGE_TOKEN = "<image>"
GLOBAL_IMAGE_TOKEN = "<global-img>"
END_OF_UTTERANCE_TOKEN = "<end_of_utterance>"
IGNORE_INDEX = -100  # the label of a token that is not trained; PyTorch's cross entropy has the same default

# SmolVLM2's template. The space after "Assistant:" is inside the generated span: at inference the prompt ends with
# the colon, so the model must generate the space.
DEFAULT_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] %}"
    "{{ message['role'] | capitalize }}:"
    "{% if message['role'] == 'assistant' %}{% generation %} "
    "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>{% endgeneration %}{{ '\\n' }}"  # a bare line break after a block would be trimmed
    "{% else %}{% if parts and parts[0]['type'] != 'image' %} {% endif %}"
    "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% elif part['type'] == 'video' %}<video>{% endif %}{% endfor %}"
    "<end_of_utterance>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tile_token(row, column):
    """Return the token before the tile in this row and column, counted from 1."""
    return f"<row_{row}_col_{column}>"


def image_tokens(max_tiles_per_side):
    """List all special tokens of images, in the order in which they are added to a tokenizer."""
    sides = range(1, max_tiles_per_side + 1)
    tiles = [tile_token(row, column) for row in sides for column in sides]
    return [FAKE_IMAGE_TOKEN, IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, END_OF_UTTERANCE_TOKEN, *tiles]


# -- messages: {"role": …, "content": a text, or parts with a "type"} -------------------------------------------------


class ChatTemplateError(ValueError):
    """A conversation whose generated text is unknown, because of how the chat template writes it."""


class RewrittenAnswerError(ChatTemplateError):
    """A template that changes an answer when more messages follow."""


# Errors of a template about messages that it does not support. A range that the sandbox forbids is an ArithmeticError.
FAULTS = (
    jinja2.TemplateError,  # pyright: ignore[reportAttributeAccessIssue] - torch requires jinja2, so it is not None
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
TURN_MARK = "trained"  # a message with the value False gets no labels
IMAGE_TYPES = ("image", "image_url")
REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one field; each template reads one of them
PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")  # of a text, by its number
placeholder_of = "\ue000{}\ue001".format
EXAMPLE = (
    {"role": "user", "content": "Who wrote this?"},
    {"role": "assistant", "content": "Nobody knows, sadly."},
)


def is_trained(message):
    """Tell if a message is an answer that gets labels."""
    return message["role"] == "assistant" and message.get(TURN_MARK, True)


def untrained(messages):
    """Mark all messages as not trained."""
    return [{**message, TURN_MARK: False} for message in messages]


def for_template(message):
    """Remove our mark from a message, and give its reasoning under all names."""
    message = {key: value for key, value in message.items() if key != TURN_MARK}
    given = {name: message[name] for name in REASONING if message.get(name) is not None}
    return {**message, **dict.fromkeys(REASONING, next(iter(given.values()))), **given} if given else message
