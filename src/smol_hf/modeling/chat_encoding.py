"""Conversation → token ids and labels, so that user text can never become a special token.

The chat template is rendered with a placeholder for each text of the conversation. What the template wrote itself is
then the only place where special tokens are recognised; the texts are put back afterwards and tokenised as plain
text, together with the template's plain text around them, so that words merge across the border as they would in one
string. Labels are the characters that the template generated between `{% generation %}` and `{% endgeneration %}`.
"""

import json
import re

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


def render_with_placeholders(messages, chat_template, add_generation_prompt, variables):
    """(rendered, spans, texts): the rendered template with placeholders, the generated character spans, the texts."""
    texts, safe_messages = [], []
    for message in messages:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        safe_parts = []
        for part in parts:
            if part["type"] == "text":
                safe_parts.append({"type": "text", "text": f"\ue000{len(texts)}\ue001"})
                texts.append(part["text"])
            else:
                safe_parts.append({"type": part["type"]})
        safe_messages.append({**message, "content": safe_parts})
    rendered, spans = render_jinja_template(
        conversations=[safe_messages],
        chat_template=chat_template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )
    return rendered[0], spans[0], texts


class ChatEncoder:
    """Tokenises rendered templates for one tokenizer. `image_token` marks where `image_blocks` go."""

    def __init__(self, tokenizer, image_token, control_tokens):
        self.image_token = image_token
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | control_tokens
        self.special_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
        self.plain = plain_tokenizer(tokenizer, control_tokens)
        longest_first = sorted(special, key=len, reverse=True)
        self.piece = re.compile(f"({PLACEHOLDER.pattern})|({'|'.join(map(re.escape, longest_first))})")

    def encode(self, rendered, spans, texts, image_blocks):
        """→ (input_ids, labels), two lists of equal length.

        Args:
            rendered, spans, texts: from `render_with_placeholders` (or a string, no spans, no texts).
            image_blocks: for each image its text in tokens of the template, such as
                `<fake_token_around_image><global-img><image>…`, given as strings.

        Raises:
            ValueError: when the template shows another number of images than there are blocks.
        """
        generated = bytearray(len(rendered) + 1)  # 1 where the template was inside {% generation %}
        for start, end in spans:
            generated[start:end] = b"\x01" * (end - start)
        input_ids, labels, run = [], [], []
        blocks = iter(image_blocks)
        shown = 0

        def flush():
            """Tokenise the plain text collected so far, as one string."""
            text = "".join(piece for piece, _ in run)
            if not text:
                return
            flags = bytearray().join(bytes([flag]) * len(piece) for piece, flag in run)
            encoding = self.plain.encode(text, add_special_tokens=False)
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets):
                # A token that reaches into the generated text must be generated whole.
                input_ids.append(token_id)
                labels.append(token_id if any(flags[start : max(end, start + 1)]) else IGNORE_INDEX)
            run.clear()

        def add_special(token, flag):
            flush()
            input_ids.append(self.special_ids[token])
            labels.append(self.special_ids[token] if flag else IGNORE_INDEX)

        def add_plain(text, start):
            """Template text, cut where generation begins or ends."""
            for piece, position in split_where_changed(text, generated, start):
                run.append((piece, generated[position]))

        position = 0
        for match in self.piece.finditer(rendered):
            add_plain(rendered[position : match.start()], position)
            position = match.end()
            flag = generated[match.start()]
            if match.group(2) is not None:
                run.append((texts[int(match.group(2))] if texts else match.group(0), flag))
            elif match.group(0) == self.image_token:
                shown += 1
                for piece in re.split(f"({'|'.join(map(re.escape, self.special_ids))})", next(blocks, "")):
                    if piece in self.special_ids:
                        add_special(piece, 0)
                    elif piece:
                        run.append((piece, 0))
            else:
                add_special(match.group(0), flag)
        add_plain(rendered[position:], position)
        flush()
        if shown != len(image_blocks):
            raise ValueError(f"the text has places for {shown} images, but {len(image_blocks)} images were given")
        return input_ids, labels


def split_where_changed(text, flags, start):
    """Pieces of `text` within which `flags[start + i]` is constant, each with the position of its first character."""
    first = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or flags[start + i] != flags[start + first]:
            yield text[first:i], start + first
            first = i
