"""A rendered conversation → pieces for `chat_encoding`.

The template is rendered with a placeholder for each text. What it wrote itself is the only place where special tokens
are recognised. It is rendered once more with the texts in their places, since some templates change what a message
says (they trim it, or take out reasoning): what the template makes of a text is what is tokenised.
"""

import json

from .chat_answers import written_answers
from .chat_encoding import PLACEHOLDER
from .chat_messages import TURN_MARK, ChatTemplateError, fitted, is_trained, numbers_in, place_holder

SHAPES_KEPT, LONGEST_KEY = 1024, 8192


def pieces_of(renderer, messages, labelled, asks=False, continues=False, as_asked=False):
    """(`Piece`s of a conversation, the texts that replace their numbers).

    Raises:
        ChatTemplateError: when it is unknown what is generated, or when a text would become a special token.
    """
    encoder = renderer.encoder
    refuse_special_tokens(renderer, messages)
    shells, texts = renderer.shells(messages)
    messages = renderer.in_its_form(messages)
    literals, numbers, pieces = written_shape(renderer, shells, labelled, asks, continues, as_asked)
    text, _ = renderer.render(messages, asks, continues)
    found = fitted(text, literals, [texts[number] for number in numbers])
    if found is not None:
        places = dict(zip(numbers, found))
        return pieces, [places.get(number, "") for number in range(len(texts))]
    for number, message in enumerate(messages, start=1):
        if special := encoder.special_in(message["content"]):
            raise ChatTemplateError(
                f"the chat template changes what the messages say, and message {number} holds {special!r}, which "
                "would become a special token"
            )
    text, spans = written_answers(renderer, messages, asks, continues, as_asked) if labelled else (text, ())
    return list(encoder.split(text, spans, texts=False)), []


def refuse_special_tokens(renderer, messages):
    """Raises ChatTemplateError for a special token in a field that the template writes as it is, such as a tool
    call."""
    fields = [
        (f"{key} of message {number}", value)
        for number, message in enumerate(messages, start=1)
        for key, value in message.items()
        if key not in ("content", TURN_MARK)
    ]
    fields += [(key, renderer.variables.get(key)) for key in ("tools", "documents")]
    for name, value in fields:
        if special := renderer.encoder.special_in(value, placeholders=True):
            raise ChatTemplateError(f"{name} holds {special!r}, which would become a special token: take it out")


def written_shape(renderer, shells, labelled, asks, continues, as_asked):
    """(literal text around the placeholders, their numbers, `Piece`s) of what the template writes of messages like
    these."""
    key = json.dumps([shells, labelled, asks, continues, as_asked], default=str)
    if key in renderer.shapes:
        return renderer.shapes[key]
    if labelled:
        text, spans = written_answers(renderer, shells, asks, continues, as_asked)
    else:
        text, spans = renderer.render(shells, asks, continues)
    literals = PLACEHOLDER.split(text)
    numbers = [int(number) for number in literals[1::2]]
    if labelled:
        check_places(renderer, shells, numbers, text, spans)
    shape = literals[::2], numbers, list(renderer.encoder.split(text, spans))
    if len(renderer.shapes) >= SHAPES_KEPT:
        renderer.shapes.clear()
    if len(key) <= LONGEST_KEY:
        renderer.shapes[key] = shape
    return shape


def check_places(renderer, shells, numbers, text, spans):
    """Raises ChatTemplateError for a text that is not written once, and for an answer outside the generated spans."""
    for index, shell in enumerate(shells, start=1):
        role, is_answer = shell["role"], is_trained(shell)
        for number in numbers_in(shell["content"]):
            if numbers.count(number) != 1:
                how = "twice" if number in numbers else "not at all"
                raise ChatTemplateError(f"the chat template writes message {index}, of the {role}, {how}")
            place = text.index(place_holder(number))
            if is_answer and spans and not any(start <= place < end for start, end, _ in spans):
                how = "does not mark" if renderer.is_marked else "ends"
                what = "as generated" if renderer.is_marked else "before it says anything"
                raise ChatTemplateError(f"the chat template {how} message {index}, {what}")
        if not spans and is_answer:
            raise ChatTemplateError("the chat template marks nothing of it as generated")
