"""A rendered conversation → pieces for `chat_encoding`.

The template is rendered twice. First with a placeholder for each text: special tokens are recognised only in this
rendering, which contains only the template's own text. Then with the texts themselves, because some templates change
them: they trim a text, or remove reasoning. The changed text is the one that is tokenised.
"""

import json

from .chat_answers import written_answers
from .chat_format import PLACEHOLDER, TURN_MARK, ChatTemplateError, is_trained, placeholder_of

SKELETONS_KEPT, LONGEST_KEY = 1024, 8192
TRIMMED = (
    str, str.strip, str.lstrip, str.rstrip,
    lambda text: text.strip("\n"), lambda text: text.lstrip("\n"), lambda text: text.rstrip("\n"),
)  # fmt: skip


def pieces_of(renderer, messages, labelled, *settings):
    """Render messages → (`Piece`s, the texts that their numbers refer to).

    `settings` are `add_generation_prompt`, `continue_final_message` and `refuse_rewritten` of `ChatRenderer.encode`.

    Raises:
        ChatTemplateError: if generated text is unknown, or if a text would become a special token.
    """
    encoder = renderer.encoder
    refuse_special_tokens(renderer, messages)
    shells, texts = renderer.with_placeholders(messages)
    messages = renderer.in_its_form(messages)
    literals, numbers, pieces = skeleton_of(renderer, shells, labelled, *settings)
    text, _ = renderer.render(messages, *settings[:2])
    found = fitted(text, literals, [texts[number] for number in numbers])
    if found is not None:
        written = dict(zip(numbers, found))
        return pieces, [written.get(number, "") for number in range(len(texts))]
    for number, message in enumerate(messages, start=1):
        if special := encoder.special_in(message["content"]):
            raise ChatTemplateError(
                f"the chat template changes the texts of messages, and message {number} holds {special!r}, which "
                "would become a special token: remove it"
            )
    text, spans = written_answers(renderer, messages, *settings) if labelled else (text, ())
    return list(encoder.split(text, spans, texts=False)), []


def refuse_special_tokens(renderer, messages):
    """Raise ChatTemplateError for a special token in a field without placeholders, such as a tool call."""
    fields = [
        (f"{key} of message {number}", value)
        for number, message in enumerate(messages, start=1)
        for key, value in message.items()
        if key not in ("content", TURN_MARK)
    ]
    fields += [(key, renderer.variables.get(key)) for key in ("tools", "documents")]
    for name, value in fields:
        if special := renderer.encoder.special_in(value, placeholders=True):
            raise ChatTemplateError(f"{name} holds {special!r}, which would become a special token: remove it")


def skeleton_of(renderer, messages, labelled, *settings):
    """Render messages with placeholders → (literal text around them, their numbers, `Piece`s), cached."""
    key = json.dumps([messages, labelled, *settings], default=str)
    if key in renderer.skeletons:
        return renderer.skeletons[key]
    if labelled:
        text, spans = written_answers(renderer, messages, *settings)
    else:
        text, spans = renderer.render(messages, *settings[:2])
    literals = PLACEHOLDER.split(text)
    numbers = [int(number) for number in literals[1::2]]
    if labelled:
        check_places(renderer, messages, numbers, text, spans)
    skeleton = literals[::2], numbers, list(renderer.encoder.split(text, spans))
    if len(renderer.skeletons) >= SKELETONS_KEPT:
        renderer.skeletons.clear()
    if len(key) <= LONGEST_KEY:
        renderer.skeletons[key] = skeleton
    return skeleton


def check_places(renderer, messages, numbers, text, spans):
    """Raise ChatTemplateError for a text that is not written once, and for an answer outside the generated spans."""
    for index, message in enumerate(messages, start=1):
        name, is_answer = f"message {index} ({message['role']})", is_trained(message)
        for number in numbers_in(message["content"]):
            if number not in numbers:
                raise ChatTemplateError(f"the chat template does not write {name}")
            if numbers.count(number) > 1:
                raise ChatTemplateError(f"the chat template writes {name} more than once")
            place = text.index(placeholder_of(number))
            if is_answer and spans and not any(start <= place < end for start, end, _ in spans):
                if renderer.is_marked:
                    raise ChatTemplateError(f"the chat template does not mark {name} as generated")
                raise ChatTemplateError(f"the chat template ends {name} before its text")
        if not spans and is_answer:
            raise ChatTemplateError("the chat template marks no text as generated")


def numbers_in(content):
    """List the numbers of the placeholders in a message's content."""
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
    return [int(match.group(1)) for text in texts for match in PLACEHOLDER.finditer(text)]


def fitted(text, literals, texts):
    """Find the texts, unchanged or trimmed, between the template's own words; None if they are changed otherwise."""
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
