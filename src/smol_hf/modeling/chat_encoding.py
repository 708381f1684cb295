"""Conversation → token ids and labels, so that user text can never become a special token.

The chat template is rendered with a placeholder for each text of the conversation. What the template wrote itself is
then the only place where special tokens are recognised; the texts are put back afterwards and tokenised as plain
text, together with the template's plain text around them, so that words merge across the border as they would in one
string. Labels are the characters that the template generated between `{% generation %}` and `{% endgeneration %}`.
"""

import json
import re
from functools import lru_cache

from transformers.utils.chat_template_utils import render_jinja_template

from .label_loss import IGNORE_INDEX

PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


def plain_tokenizer(tokenizer, control_tokens):
    """A copy of the fast tokenizer's engine that reads special tokens in a text as ordinary characters.

    `control_tokens` are treated as special even where the tokenizer's file does not mark them so.
    """
    engine = tokenizer.backend_tokenizer
    description = json.loads(engine.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in control_tokens
    description["post_processor"] = None  # it would trim the offsets that labels are read from
    description["truncation"] = description["padding"] = None
    plain = type(engine).from_str(json.dumps(description))
    plain.encode_special_tokens = True
    return plain


@lru_cache(maxsize=1024)
def render_shape(shape, chat_template, add_generation_prompt, variables):
    """The template of a conversation of this shape, with placeholders for its texts, and the generated spans.

    `shape` is ((role, (part type, …), is trained), …). Conversations of one shape differ only in their texts, so what
    the template writes around them is rendered once.
    """
    number, messages = 0, []
    for role, types, _ in shape:
        parts = []
        for part_type in types:
            parts.append({"type": part_type})
            if part_type == "text":
                parts[-1]["text"] = f"\ue000{number}\ue001"
                number += 1
        messages.append({"role": role, "content": parts})
    rendered, spans = render_jinja_template(
        conversations=[messages],
        chat_template=chat_template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **dict(variables),
    )
    kept = trained_spans(spans[0], [(role, is_trained) for role, _, is_trained in shape])
    return rendered[0], tuple(map(tuple, kept))


def trained_spans(spans, turns):
    """The generated spans without those of assistant turns that are not trained.

    `turns` is (role, is trained) of each message.

    Raises:
        ValueError: when the template does not mark one span for each assistant turn, and a turn is not trained.
    """
    trained = [is_trained for role, is_trained in turns if role == "assistant"]
    if all(trained):
        return list(spans)
    if len(spans) != len(trained):
        raise ValueError(
            f"the chat template marks {len(spans)} generated spans in {len(trained)} assistant turns, so a turn "
            "cannot be left untrained: use a template with one {% generation %} block for each assistant turn"
        )
    return [span for span, is_trained in zip(spans, trained) if is_trained]


def shape_and_texts(messages):
    """(shape, texts) of a conversation, whose contents are text or lists of typed parts.

    A message with `"trained": False` gets no labels."""
    shape, texts = [], []
    for message in messages:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        shape.append((message["role"], tuple(part["type"] for part in parts), message.get("trained", True)))
        texts += [part["text"] for part in parts if part["type"] == "text"]
    return tuple(shape), texts


class ChatEncoder:
    """Tokenises conversations for one tokenizer. `image_token` in a template marks where an image's tokens go."""

    def __init__(self, tokenizer, image_token, control_tokens):
        self.image_token = image_token
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | control_tokens
        self.special_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
        named = tokenizer.special_tokens_map.items()
        self.variables = tuple((name, str(token)) for name, token in named if not isinstance(token, (list, tuple)))
        self.plain = plain_tokenizer(tokenizer, control_tokens)
        longest_first = sorted(special, key=len, reverse=True)
        self.piece = re.compile(f"({PLACEHOLDER.pattern})|({'|'.join(map(re.escape, longest_first))})")
        self.piece_lists = {}
        self.short_runs = {}

    def encode_messages(self, messages, image_blocks, chat_template, add_generation_prompt=False):
        """A conversation → (input_ids, labels), two lists of equal length; labels are -100 outside generated text.

        Args:
            image_blocks: the tokens of each image, in reading order, from `encode_block`.

        Raises:
            ValueError: when the template shows another number of images than there are blocks.
        """
        shape, texts = shape_and_texts(messages)
        key = (shape, chat_template, add_generation_prompt)
        if key not in self.piece_lists:
            if len(self.piece_lists) >= 1024:
                self.piece_lists.clear()
            rendered, spans = render_shape(*key, self.variables)
            self.piece_lists[key] = list(self.split(rendered, spans))
        return self.encode_pieces(self.piece_lists[key], texts, image_blocks)

    def encode_prompt(self, prompt, image_blocks):
        """As `encode_messages`, of a prompt that a template has already made: all special tokens in it count."""
        return self.encode_pieces(self.split(prompt, (), texts=False), (), image_blocks)

    def encode_block(self, block):
        """The tokens of an image, written as a string of special tokens and line breaks, → ids."""
        return self.encode_pieces(self.split(block, (), images=False), (), ())[0]

    def split(self, rendered, spans, texts=True, images=True):
        """What the template wrote → pieces (kind, value, generated): plain text, text number n, special id, image."""
        generated = bytearray(len(rendered) + 1)  # 1 where the template was inside {% generation %}
        for start, end in spans:
            generated[start:end] = b"\x01" * (end - start)
        position = 0
        for match in self.piece.finditer(rendered):
            yield from plain_pieces(rendered[position : match.start()], generated, position)
            position, flag = match.end(), generated[match.start()]
            if match.group(2) is not None:
                yield ("text", int(match.group(2)), flag) if texts else ("plain", match.group(0), flag)
            elif match.group(0) == self.image_token and images:
                yield "image", None, 0
            else:
                yield "special", self.special_ids[match.group(0)], flag
        yield from plain_pieces(rendered[position:], generated, position)

    def encode_pieces(self, pieces, texts, image_blocks):
        input_ids, labels, run = [], [], []
        blocks, shown = iter(image_blocks), 0
        for kind, value, flag in pieces:
            if kind == "plain":
                run.append((value, flag))
            elif kind == "text":
                run.append((texts[value], flag))
            else:
                self.encode_run(run, input_ids, labels)
                ids = [value] if kind == "special" else next(blocks, ())
                input_ids += ids
                labels += ids if flag else [IGNORE_INDEX] * len(ids)
                shown += kind == "image"
        self.encode_run(run, input_ids, labels)
        if shown != len(image_blocks):
            raise ValueError(f"the text has places for {shown} images, but {len(image_blocks)} images were given")
        return input_ids, labels

    def encode_run(self, run, input_ids, labels):
        """Plain text between two special tokens, tokenised as one string. Short runs, such as the template's own
        words, come again with each message and are remembered."""
        key = tuple(run)
        run.clear()
        ids_and_labels = self.short_runs.get(key)
        if ids_and_labels is None:
            ids_and_labels = self.tokenise(key)
            if sum(len(piece) for piece, _ in key) <= 64:
                if len(self.short_runs) >= 4096:
                    self.short_runs.clear()
                self.short_runs[key] = ids_and_labels
        input_ids += ids_and_labels[0]
        labels += ids_and_labels[1]

    def tokenise(self, run):
        """((piece, generated), ...) → (ids, labels). A token that reaches into generated text must be generated
        whole, so it is labelled."""
        text = "".join(piece for piece, _ in run)
        flags = b"".join(bytes([flag]) * len(piece) for piece, flag in run)
        encoding = self.plain.encode(text, add_special_tokens=False)
        return encoding.ids, [
            token_id if 1 in flags[start : max(end, start + 1)] else IGNORE_INDEX
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets)
        ]


def plain_pieces(text, flags, start):
    """("plain", piece, flag) for the pieces of `text` within which `flags[start + i]` is constant."""
    first = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or flags[start + i] != flags[start + first]:
            yield "plain", text[first:i], flags[start + first]
            first = i
