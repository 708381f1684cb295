"""Spans of the assistant's answers in a rendered conversation.

Some templates mark generated text (`{% generation %}`); their marks decide. For other templates the spans follow from
the text: an answer begins after the generation prompt (`add_generation_prompt`), and ends with the first special token
that ends a turn. The text of an answer must not change when more messages follow. Otherwise the model would learn
another text than it must generate.
"""

import json
from itertools import pairwise

from .chat_encoding import TRAINED, UNTRAINED
from .chat_format import EXAMPLE, PLACEHOLDER, ChatTemplateError, RewrittenAnswerError, is_trained, placeholder_of

REWRITTEN = (
    "the chat template changes the answer in message {number} when more messages follow, so the model would not learn "
    "the text that it must generate: train on conversations with one answer, or choose a chat_template that writes "
    "all answers alike and marks them with {{% generation %}}"
)


def find_ending(renderer):
    """Find the text that ends an answer, and its last token: a special token, or several up to the end token.

    Raises:
        ChatTemplateError: if no special token ends an answer.
    """
    answer = placeholder_of(1)
    question, _ = EXAMPLE
    text, spans = renderer.text([question, {"role": "assistant", "content": answer}], marked=renderer.is_marked)
    if answer not in text:
        raise ChatTemplateError("the chat template does not write the assistant's messages")
    begin = text.index(answer) + len(answer)
    stop = max((stop for _, stop in spans), default=begin) if renderer.is_marked else len(text)
    tokens = list(renderer.encoder.piece.finditer(text, begin, stop))
    if not tokens:
        raise ChatTemplateError(
            f"the chat template ends an answer with {text[begin:stop]!r}, which contains no special token of the "
            "tokenizer, so generation would not stop: choose another chat_template, such as chatml"
        )
    first = last = tokens[0]
    for before, token in pairwise(tokens):
        if token.start() != before.end():
            break
        if token.group(0) == renderer.variables.get("eos_token"):
            last = token
    return text[first.start() : last.end()], last.group(0)


def written_answers(
    renderer, messages, add_generation_prompt=False, continue_final_message=False, refuse_rewritten=False
):
    """Render messages → (text, generated spans of it: start, end, TRAINED or UNTRAINED).

    Args:
        refuse_rewritten: raise RewrittenAnswerError for marked answers, too.

    Raises:
        ChatTemplateError: if the span of a trained answer is unknown.
        RewrittenAnswerError: if the template changes an answer when more messages follow.
    """
    text, spans = renderer.render(messages, add_generation_prompt, continue_final_message, renderer.is_marked)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if renderer.is_marked:
        spans = flagged_spans(spans, [is_trained(messages[index]) for index in answers])
        if refuse_rewritten and len(spans) == len(answers):
            for index, (*_, end, flag) in zip(answers[:-1], spans):
                if flag == TRAINED:
                    check_marked_answer(renderer, text, messages[: index + 1], end)
        return text, spans
    for index in answers:
        is_open = continue_final_message and index == len(messages) - 1
        try:
            spans.append(answer_span(renderer, text, messages, index, is_open))
        except ChatTemplateError:
            if is_trained(messages[index]):
                raise
    return text, spans


def check_marked_answer(renderer, text, messages, end):
    """Raise RewrittenAnswerError if the last of `messages`, rendered last, differs from `text[:end]`."""
    turn, spans = renderer.render(messages, marked=True)
    if spans and text[:end] != turn[: spans[-1][1]]:
        raise RewrittenAnswerError(REWRITTEN.format(number=len(messages)))


def answer_span(renderer, text, messages, index, is_open):
    """Find (start, end, flag) of an answer in `text`. The model continues an answer that `is_open`."""
    prompt = renderer.render(messages[:index], add_generation_prompt=True)[0]
    turn = text if is_open else renderer.render(messages[: index + 1])[0]
    if not turn.startswith(prompt):
        raise ChatTemplateError(
            f"the chat template does not begin the answer in message {index + 1} with its generation prompt"
        )
    end = len(turn)
    if not is_open:
        ending, _ = renderer.end_of_turn
        end = turn.find(ending, len(prompt))
        if end < 0:
            raise ChatTemplateError(f"the chat template does not end the answer in message {index + 1} with {ending}")
        end += len(ending)
    if not text.startswith(turn[:end]):
        raise RewrittenAnswerError(REWRITTEN.format(number=index + 1))
    return len(prompt), end, TRAINED if is_trained(messages[index]) else UNTRAINED


def flagged_spans(spans, trained):
    """Add a flag to marked spans: (start, end) → (start, end, TRAINED or UNTRAINED).

    Args:
        trained: for each assistant turn, True if it is trained.

    Raises:
        ChatTemplateError: if the template marks fewer spans than there are assistant turns. If some turns are not
            trained, it must mark exactly one span for each.
    """
    remedy = "use a template with one {% generation %} block for each assistant turn"
    found = f"the chat template marks {len(spans)} generated spans in {len(trained)} assistant turns"
    if all(trained) and spans and len(spans) < len(trained):
        raise ChatTemplateError(f"{found}, so an answer would not be trained: {remedy}")
    if all(trained) or not any(trained):
        return [(*span, TRAINED if all(trained) else UNTRAINED) for span in spans]
    if len(spans) != len(trained):
        raise ChatTemplateError(f"{found}, so a turn cannot be left untrained: {remedy}")
    return [(*span, TRAINED if is_kept else UNTRAINED) for span, is_kept in zip(spans, trained)]


def check_places(renderer, messages, numbers, text, spans):
    """Raise ChatTemplateError for a text that is not written once, and for an answer outside the generated spans.

    `messages` have placeholders; `numbers` are those that the template writes.
    """
    for index, message in enumerate(messages, start=1):
        name, is_answer = f"message {index} ({message['role']})", is_trained(message)
        for number in map(int, PLACEHOLDER.findall(json.dumps(message["content"], ensure_ascii=False))):
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
