"""Messages → pieces for `chat_encoding`.

The template is rendered twice. First with a placeholder for each text: special tokens are recognised only in this
rendering, which contains only the template's own text. It is cached. Then with the texts themselves, because some
templates change them: they trim a text, or remove reasoning. The changed text is the one that is tokenised.
"""

import json

from .chat_answers import check_places, written_answers
from .chat_format import IMAGE_TYPES, PLACEHOLDER, TURN_MARK, ChatTemplateError, placeholder_of

SKELETONS_KEPT, LONGEST_KEY = 1024, 8192
TRIMMED = (
    str, str.strip, str.lstrip, str.rstrip,
    lambda text: text.strip("\n"), lambda text: text.lstrip("\n"), lambda text: text.rstrip("\n"),
)  # fmt: skip


def part_type(part):
    """Return "text", "image" or "video". Raises ValueError for another type, and for a text part without a text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in IMAGE_TYPES:
        return "image"
    if kind == "video":
        return kind
    if kind != "text":
        raise ValueError(f"a part has the type {kind!r}: use text, image or video")
    if not isinstance(part.get("text"), str):
        raise ValueError('a text part has no text: write {"type": "text", "text": …}')
    return kind


def content_forms(renderer):
    """Find the forms of `content` that a template reads: "text", "parts" or both; both if neither is found."""
    text, found = placeholder_of(0), []
    for form, content in (("text", text), ("parts", [{"type": "text", "text": text}])):
        try:
            written, _ = renderer.render([{"role": "user", "content": content}])
        except ChatTemplateError:  # a form that it does not read
            continue
        if text in written and not any(name in written for name in ("'text'", '"text"')):
            found.append(form)
    return tuple(found) or ("text", "parts")


def with_placeholders(messages, forms):
    """Write messages in a form that the template reads, see `content_forms`. Images and videos keep only their type.

    Returns (messages with a placeholder for each text, messages with the texts, texts by number). Empty texts stay,
    because templates treat them differently.
    """
    shells, complete, texts = [], [], []
    for message in messages:
        content = shell = message.get("content")
        if content is not None:
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            parts = [part if (kind := part_type(part)) == "text" else {"type": kind} for part in parts]
            as_text = "text" in forms if isinstance(content, str) else "parts" not in forms
            as_text = as_text and all(part["type"] == "text" for part in parts)
            if as_text:
                parts = [{"type": "text", "text": "".join(part["text"] for part in parts)}]
            marked = []
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                    part = {**part, "text": placeholder_of(len(texts) - 1) if part["text"] else ""}
                marked.append(part)
            content, shell = (parts[0]["text"], marked[0]["text"]) if as_text else (parts, marked)
        complete.append({**message, "content": content})
        shells.append({**message, "content": shell})
    return shells, complete, texts


def pieces_of(renderer, messages, labelled, *settings):
    """Render messages → (`Piece`s, the texts that their numbers refer to).

    `settings` are `add_generation_prompt`, `continue_final_message` and `refuse_rewritten` of `ChatRenderer.encode`.

    Raises:
        ChatTemplateError: if generated text is unknown, or if a text would become a special token.
    """
    shells, messages, texts = with_placeholders(messages, renderer.forms)
    key = json.dumps([shells, labelled, *settings], default=str)
    literals, numbers, pieces = renderer.skeletons.get(key) or skeleton_of(renderer, key, shells, labelled, *settings)
    text, _ = renderer.render(messages, *settings[:2])
    written = [texts[number] for number in numbers]
    if text != literals[0] + "".join(each + after for each, after in zip(written, literals[1:])):
        written = trimmed_texts(text, literals, written)
    if written is not None:
        by_number = dict(zip(numbers, written))
        return pieces, [by_number.get(number, "") for number in range(len(texts))]
    for number, message in enumerate(messages, start=1):
        if special := renderer.encoder.special_in(message["content"]):
            raise ChatTemplateError(
                f"the chat template changes the texts of messages, and message {number} holds {special!r}, which "
                "would become a special token: remove it"
            )
    text, spans = written_answers(renderer, messages, *settings) if labelled else (text, ())
    return list(renderer.encoder.split(text, spans, texts=False)), []


def skeleton_of(renderer, key, messages, labelled, *settings):
    """Render messages with placeholders → (literal text around them, their numbers, `Piece`s), and cache it.

    Raises:
        ChatTemplateError: also for a special token in a field without placeholders, such as a tool call.
    """
    fields = [
        (f"{name} of message {number}", value)
        for number, message in enumerate(messages, start=1)
        for name, value in message.items()
        if name not in ("content", TURN_MARK)
    ]
    for name, value in [*fields, *((name, renderer.variables.get(name)) for name in ("tools", "documents"))]:
        if special := renderer.encoder.special_in(value, placeholders=True):
            raise ChatTemplateError(f"{name} holds {special!r}, which would become a special token: remove it")
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


def trimmed_texts(text, literals, texts):
    """Find the texts, unchanged or trimmed, between the template's own words; None if they are changed otherwise."""
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
