"""The chat format of a composed model: its language model's, SmolVLM's or a file's, with images added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from smol_hf.conversion.formats.processors import write_chat
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE, END_OF_UTTERANCE_TOKEN, FAULTS, IMAGE_TOKEN
from smol_hf.text.chat import ChatTemplateError, TextChat
from smol_hf.training.model.chat_template import TEMPLATES

START_TOKEN = "<|im_start|>"
# Text-only templates take the content of a message as one string: join its parts, with a token for an image.
JOIN_PARTS = (
    "{%- set joined = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set content = namespace(text=message['content']) -%}"
    "{%- if message['content'] is not string and message['content'] is not none -%}"
    "{%- set content.text = '' -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set content.text = content.text + '<image>' -%}"
    "{%- elif part['type'] == 'text' -%}{%- set content.text = content.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- set joined.messages = joined.messages + [dict(message, content=content.text)] -%}"
    "{%- endfor -%}"
    "{%- set messages = joined.messages %}\n"
)
ROLES = ("user", "assistant", "user", "assistant")
PROBES = tuple(
    [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]
    for roles in (ROLES[:1], ROLES, ("system", *ROLES))
)
IMAGE_PROBE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]


@dataclass(frozen=True)
class ChatFormat:
    """A chat template that supports images, and the token that ends an answer.

    Attributes:
        keeps_tokens: keep the language model's start and end tokens; else use SmolVLM's, which are new to it.
        description: of the choice, for the user.
    """

    template: str
    end_token: str
    keeps_tokens: bool
    description: str


def choose_chat_format(tokenizer: PreTrainedTokenizerBase, choice: str) -> ChatFormat:
    """Return the chat format for "keep", "smolvlm" or the path of a template."""
    if choice == "smolvlm":
        return ChatFormat(DEFAULT_CHAT_TEMPLATE, END_OF_UTTERANCE_TOKEN, False, "SmolVLM's chat template")
    if choice != "keep":
        return with_images(tokenizer, read_template(choice), f"the chat template {choice}", "--chat-template")
    if tokenizer.chat_template:
        try:
            own = tokenizer.get_chat_template()
        except ValueError as error:
            raise ConversionError(f"--chat-template keep: {error}; give --chat-template smolvlm or a file") from error
        name = "the language model's own chat template"
        return with_images(tokenizer, with_generation_marks(tokenizer, str(own)), name, "--chat-template keep")
    if tokenizer.eos_token is None:
        reason = "SmolVLM's chat template, since the language model has neither a template nor an end token"
        return ChatFormat(DEFAULT_CHAT_TEMPLATE, END_OF_UTTERANCE_TOKEN, False, reason)
    end = str(tokenizer.eos_token)
    start = START_TOKEN if START_TOKEN in tokenizer.get_vocab() else str(tokenizer.bos_token or "")
    template = DEFAULT_CHAT_TEMPLATE.replace(START_TOKEN, start).replace(END_OF_UTTERANCE_TOKEN, end)
    return ChatFormat(template, end, True, f"the language model has no chat template: SmolVLM's, ending with {end}")


def with_images(tokenizer: PreTrainedTokenizerBase, template: str, name: str, option: str) -> ChatFormat:
    """Keep the template if it writes an image as its token, else join the parts of a message before it."""
    reason: object = f"it does not write one {IMAGE_TOKEN} for an image"
    for candidate in (template, JOIN_PARTS + template):
        try:
            text = write_chat(tokenizer, IMAGE_PROBE, candidate)
        except FAULTS as error:
            reason = error
            continue
        if text.count(IMAGE_TOKEN) == 1:
            return ChatFormat(candidate, end_of_turn(tokenizer, candidate, option), True, name)
    raise ConversionError(f"{option}: the chat template cannot write a message with an image ({reason})")


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str, option: str) -> str:
    """Return the token with which the template ends an answer."""
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        return TextChat(tokenizer).end_of_turn[1]
    except ChatTemplateError as error:
        raise ConversionError(f"{option}: {error}; choose --chat-template smolvlm or a file") from error
    finally:
        tokenizer.chat_template = before


def with_generation_marks(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return a known template that writes the same text and marks generated text, else the template itself."""
    if has_generation_markers(template):
        return template
    try:
        known = get_training_chat_template(tokenizer)
    except FAULTS:  # TRL has no such template
        known = None
    expected = render_probes(tokenizer, template)
    for candidate in (*TEMPLATES.values(), known):
        if candidate and has_generation_markers(candidate) and render_probes(tokenizer, candidate) == expected:
            return candidate
    return template


def render_probes(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str | None]:
    """Render some conversations; None for one that the template refuses."""
    texts: list[str | None] = []
    for probe in PROBES:
        try:
            texts.append(write_chat(tokenizer, probe, template))
        except FAULTS:
            texts.append(None)
    return texts


def read_template(name: str) -> str:
    """Read a file. Raise ConversionError if it is missing or not text."""
    path = Path(name)
    if path.suffix not in (".jinja", ".jinja2", ".j2"):
        raise ConversionError(f"--chat-template {name}: choose keep, smolvlm, or the path of a .jinja file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"--chat-template {name} cannot be read: {error}") from error
