"""The chat format of a composed model: its language model's own, SmolVLM's, or a file's, with places for images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from smol_hf.conversion.composition.chat_probe import write_chat
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE, END_OF_UTTERANCE_TOKEN, FAULTS, IMAGE_TOKEN
from smol_hf.text.chat import ChatTemplateError, TextChat
from smol_hf.training.model.chat_template import TEMPLATES

START_TOKEN = "<|im_start|>"
# Templates of language models take a message's content as one string: join its parts, an image as its token.
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
    """A chat template that writes images, and the token that ends an answer.

    Attributes:
        keeps_tokens: the language model's start and end tokens stay; else they become SmolVLM's, which are new to it.
        description: of the choice, for the user.
    """

    template: str
    end_token: str
    keeps_tokens: bool
    description: str


def choose_chat_format(tokenizer: PreTrainedTokenizerBase, choice: str) -> ChatFormat:
    """The chat format of `choice`: "keep", "smolvlm" or the path of a template.

    Raises:
        ConversionError: for a template that cannot be read, writes no images, or ends no answer.
    """
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
        return with_images(tokenizer, marked(tokenizer, own), name, "--chat-template keep")
    end = tokenizer.eos_token
    if end is None:
        reason = "SmolVLM's chat template, since the language model has neither a template nor an end token"
        return ChatFormat(DEFAULT_CHAT_TEMPLATE, END_OF_UTTERANCE_TOKEN, False, reason)
    start = START_TOKEN if START_TOKEN in tokenizer.get_vocab() else tokenizer.bos_token or ""
    template = DEFAULT_CHAT_TEMPLATE.replace(START_TOKEN, start).replace(END_OF_UTTERANCE_TOKEN, end)
    return ChatFormat(template, end, True, f"the language model has no chat template: SmolVLM's, ending with {end}")


def with_images(tokenizer: PreTrainedTokenizerBase, template: str, name: str, option: str) -> ChatFormat:
    """The template as it is if it writes an image as its token, else with the parts of a message joined first."""
    tried = {}
    for candidate in (template, JOIN_PARTS + template):
        try:
            text = write_chat(tokenizer, IMAGE_PROBE, candidate)
        except FAULTS as error:
            tried["error"] = error
            continue
        if text.count(IMAGE_TOKEN) == 1:
            return ChatFormat(candidate, end_of_turn(tokenizer, candidate, option), True, name)
    reason = tried.get("error", f"it does not write one {IMAGE_TOKEN} for an image")
    raise ConversionError(f"{option}: the chat template cannot write a message with an image ({reason})")


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str, option: str) -> str:
    """The token with which the template ends an answer."""
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        return TextChat(tokenizer).end_of_turn[1]
    except ChatTemplateError as error:
        raise ConversionError(f"{option}: {error}; --chat-template smolvlm or FILE names another") from error
    finally:
        tokenizer.chat_template = before


def marked(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The template, or one that writes the same and marks what is generated, where such a one is known."""
    if has_generation_markers(template):
        return template
    try:
        known = get_training_chat_template(tokenizer)
    except FAULTS:  # TRL knows no such template
        known = None
    expected = written(tokenizer, template)
    for candidate in (*TEMPLATES.values(), known):
        if candidate and has_generation_markers(candidate) and written(tokenizer, candidate) == expected:
            return candidate
    return template


def written(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str | None]:
    """What a template writes of some conversations; None for one that it refuses."""
    texts: list[str | None] = []
    for probe in PROBES:
        try:
            texts.append(write_chat(tokenizer, probe, template))
        except FAULTS:
            texts.append(None)
    return texts


def read_template(name: str) -> str:
    """Raises ConversionError for a file that is missing or not a text."""
    path = Path(name)
    if path.suffix not in (".jinja", ".jinja2", ".j2"):
        raise ConversionError(f"--chat-template {name}: choose keep, smolvlm, or the path of a .jinja file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"--chat-template {name} cannot be read: {error}") from error
