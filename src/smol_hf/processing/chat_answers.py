"""Positions of the assistant's answers in a rendered conversation.

A template that marks what is generated (`{% generation %}`) says itself where labels are. Of any other they follow
from what it writes: an answer begins where the template would ask for one (`add_generation_prompt`), and ends with the
first special token that ends a turn. What the template writes of an answer must not depend on what is said later, or
the model would learn another text than it is asked for.
"""

from itertools import pairwise

from .chat_encoding import TRAINED, UNTRAINED
from .chat_messages import EXAMPLE, ChatTemplateError, RewrittenAnswerError, is_trained, place_holder

REWRITTEN = (
    "the chat template writes message {number}, the assistant's, otherwise once more messages follow, so that the "
    "model would not learn what it is asked for: train on conversations of one answer, or name another chat_template "
    "(one that writes all answers alike, and marks them with {{% generation %}})"
)


def find_ending(renderer):
    """(what ends an answer, the token that it ends with): a special token, or several up to the tokenizer's own end
    token. Raises ChatTemplateError where there is none."""
    shells, _ = renderer.shells(EXAMPLE)
    text, spans = renderer.render(shells, marked=renderer.is_marked)
    answer = place_holder(1)
    if answer not in text:
        raise ChatTemplateError("the chat template leaves out what the assistant says")
    begin = text.index(answer) + len(answer)
    stop = max((stop for _, stop in spans), default=begin) if renderer.is_marked else len(text)
    tokens = list(renderer.encoder.piece.finditer(text, begin, stop))
    if not tokens:
        raise ChatTemplateError(
            f"the chat template ends an answer with {text[begin:stop]!r}, and no special token of the tokenizer "
            "is in it: generation would not stop. Name another chat_template, such as chatml"
        )
    first = last = tokens[0]
    for before, token in pairwise(tokens):
        if token.start() != before.end():
            break
        if token.group(0) == renderer.variables.get("eos_token"):
            last = token
    return text[first.start() : last.end()], last.group(0)


def written_answers(renderer, messages, asks=False, continues=False, as_asked=False):
    """(text, spans of it that the assistant generates: start, end, TRAINED or UNTRAINED).

    Args:
        as_asked: raise RewrittenAnswerError for marked answers, too.

    Raises:
        ChatTemplateError: when the span of a trained answer is unknown. RewrittenAnswerError: see there.
    """
    text, spans = renderer.render(messages, asks, continues, renderer.is_marked)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if renderer.is_marked:
        spans = flagged_spans(spans, [is_trained(messages[index]) for index in answers])
        if as_asked and len(spans) == len(answers):
            for index, (*_, end, flag) in zip(answers[:-1], spans):
                if flag == TRAINED:
                    check_marked_answer(renderer, text, messages[: index + 1], end)
        return text, spans
    for index in answers:
        try:
            spans.append(answer_span(renderer, text, messages, index, continues and index == len(messages) - 1))
        except ChatTemplateError:
            if is_trained(messages[index]):
                raise
    return text, spans


def check_marked_answer(renderer, text, messages, end):
    """Raises RewrittenAnswerError where the template writes the last of these messages otherwise than in `text`, in
    which it ends at `end`."""
    turn, spans = renderer.render(messages, marked=True)
    if spans and text[:end] != turn[: spans[-1][1]]:
        raise RewrittenAnswerError(REWRITTEN.format(number=len(messages)))


def answer_span(renderer, text, messages, index, is_open):
    """(start, end, flag) of an answer in what the template writes. One that `is_open` is to be continued."""
    what = f"message {index + 1}, the assistant's"
    prompt = renderer.render(messages[:index], asks=True)[0]
    turn = text if is_open else renderer.render(messages[: index + 1])[0]
    if not turn.startswith(prompt):
        raise ChatTemplateError(f"the chat template writes {what}, otherwise than it asks for it")
    end = len(turn)
    if not is_open:
        ending, _ = renderer.end_of_turn
        end = turn.find(ending, len(prompt))
        if end < 0:
            raise ChatTemplateError(f"the chat template ends {what}, without {ending}")
        end += len(ending)
    if not text.startswith(turn[:end]):
        raise RewrittenAnswerError(REWRITTEN.format(number=index + 1))
    return len(prompt), end, TRAINED if is_trained(messages[index]) else UNTRAINED


def flagged_spans(spans, trained):
    """Marked spans (start, end) → (start, end, TRAINED or UNTRAINED).

    Args:
        trained: whether each assistant turn is trained.

    Raises:
        ChatTemplateError: when the template marks fewer spans than there are assistant turns; and when it does not
            mark one span for each assistant turn, and a turn is not trained.
    """
    if all(trained) and spans and len(spans) < len(trained):
        raise ChatTemplateError(
            f"the chat template marks {len(spans)} generated spans in {len(trained)} assistant turns, so that an "
            "answer would not be trained: use a template with one {% generation %} block for each assistant turn"
        )
    if all(trained) or not any(trained):
        return [(*span, TRAINED if all(trained) else UNTRAINED) for span in spans]
    if len(spans) != len(trained):
        raise ChatTemplateError(
            f"the chat template marks {len(spans)} generated spans in {len(trained)} assistant turns, so a turn "
            "cannot be left untrained: use a template with one {% generation %} block for each assistant turn"
        )
    return [(*span, TRAINED if is_kept else UNTRAINED) for span, is_kept in zip(spans, trained)]
