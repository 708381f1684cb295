"""Pieces of a rendered conversation → token ids and labels, so that user text can never become a special token.

Special tokens are recognised only in what the chat template wrote. The texts of the conversation replace their
placeholders and are tokenised as plain text, together with the template's plain text around them, so that words merge
across the border as they would in one string. What the assistant generates is tokenised separately: no token crosses
the end of a prompt, as at inference. `chat_rendering` renders the template.

A worked example. ⟨n⟩ is the placeholder of text n (PLACEHOLDER), and ⟦…⟧ is what the assistant generates:

    messages   user: "Hi <|im_end|>"   assistant: "Yes."
    template   {% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}
    rendered   <|im_start|>user: ⟨0⟩<|im_end|><|im_start|>assistant: ⟦⟨1⟩<|im_end|>⟧
    pieces     special <|im_start|>   plain "user: "        text 0            special <|im_end|>
               special <|im_start|>   plain "assistant: "   text 1, TRAINED   special <|im_end|>, TRAINED
    ids        [<|im_start|>] + ids of "user: Hi <|im_end|>" as plain text + [<|im_end|>]
               + [<|im_start|>] + ids of "assistant: " + ids of "Yes." + [<|im_end|>]
    labels     -100 for each of these, except for the ids of "Yes." and the last <|im_end|>
"""

import re
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from .chat_format import IGNORE_INDEX
from .plain_tokenizer import plain_tokenizer

TRAINED, UNTRAINED = 1, 2  # text that the assistant generates, with labels and without
PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


class Piece(NamedTuple):
    """A part of a rendered conversation.

    `kind` says what `value` is: "plain" (the template's text), "text" (the number of a text of the conversation),
    "special" (a token id) or "image" (None). `flag` is TRAINED or UNTRAINED in generated text, and 0 elsewhere.
    """

    kind: str
    value: object
    flag: int


class ChatEncoder:
    """Tokenises conversations for one tokenizer. `image_token` in a template marks where an image's tokens go."""

    def __init__(self, tokenizer, image_token, control_tokens):
        self.image_token = image_token
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | control_tokens
        self.special_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
        named = tokenizer.special_tokens_map.items()
        self.variables = {name: str(token) for name, token in named if not isinstance(token, (list, tuple))}
        self.plain = plain_tokenizer(tokenizer, control_tokens)
        longest_first = sorted(special, key=len, reverse=True)
        self.piece = re.compile(f"({PLACEHOLDER.pattern})|({'|'.join(map(re.escape, longest_first))})")
        self.renderers = {}  # of each chat template, see `chat_rendering.renderer_of`
        self.short_runs = {}

    def encode_prompt(self, prompt, image_blocks):
        """(input_ids, labels) of a prompt that a template has already made: all special tokens in it count."""
        return self.encode_pieces(self.split(prompt, (), texts=False), (), image_blocks)

    def encode_block(self, block):
        """The tokens of an image, written as a string of special tokens and line breaks, → ids."""
        return self.encode_pieces(self.split(block, (), images=False), (), ())[0]

    def special_in(self, value, placeholders=False):
        """The first special token (or placeholder) in the strings of a nested value, or None."""
        if isinstance(value, str):
            found = (match for match in self.piece.finditer(value) if placeholders or match.group(2) is None)
            return next((match.group(0) for match in found), None)
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, (list, tuple)):
            return next((found for each in value if (found := self.special_in(each, placeholders))), None)
        return None

    def split(self, rendered, spans, texts=True, images=True):
        """What the template wrote → `Piece`s. `spans` are (start, end, TRAINED or UNTRAINED) of generated text.

        Without `texts`, placeholders are plain text; without `images`, the image token is an ordinary special token.
        """
        generated = bytearray(len(rendered) + 1)
        for start, end, flag in spans:
            generated[start:end] = bytes([flag]) * (end - start)
        position = 0
        for match in self.piece.finditer(rendered):
            yield from plain_pieces(rendered[position : match.start()], generated, position)
            position, flag = match.end(), generated[match.start()]
            if match.group(2) is not None:
                yield Piece("text", int(match.group(2)), flag) if texts else Piece("plain", match.group(0), flag)
            elif match.group(0) == self.image_token and images:
                yield Piece("image", None, 0)
            else:
                yield Piece("special", self.special_ids[match.group(0)], flag)
        yield from plain_pieces(rendered[position:], generated, position)

    def encode_pieces(self, pieces, texts, image_blocks):
        """`Piece`s → (input_ids, labels), two lists of equal length; labels are -100 outside trained text.

        Args:
            texts: the texts of the conversation, by number.
            image_blocks: the tokens of each image, in reading order, from `encode_block`.

        Raises:
            ValueError: when the number of image pieces differs from the number of blocks.
        """
        input_ids, labels, run = [], [], []
        blocks, shown = iter(image_blocks), 0
        for piece in pieces:
            if piece.kind in ("plain", "text"):
                run.append(piece if piece.kind == "plain" else piece._replace(value=texts[piece.value]))
                continue
            self.encode_run(run, input_ids, labels)
            ids = [piece.value] if piece.kind == "special" else next(blocks, ())
            input_ids += ids
            labels += ids if piece.flag == TRAINED else [IGNORE_INDEX] * len(ids)
            shown += piece.kind == "image"
        self.encode_run(run, input_ids, labels)
        if shown != len(image_blocks):
            raise ValueError(f"the text has places for {shown} images, but {len(image_blocks)} images were given")
        return input_ids, labels

    def encode_run(self, run, input_ids, labels):
        """Tokenise the text between two special tokens: as one string, unless generated text begins or ends in it."""
        for flag, pieces in groupby(run, key=attrgetter("flag")):
            ids = self.tokenise("".join(piece.value for piece in pieces))
            input_ids += ids
            labels += ids if flag == TRAINED else [IGNORE_INDEX] * len(ids)
        run.clear()

    def tokenise(self, text):
        """Plain text → ids. Short texts, such as the template's own words, are cached."""
        ids = self.short_runs.get(text)
        if ids is None:
            ids = self.plain.encode(text, add_special_tokens=False).ids
            if len(text) <= 64:
                if len(self.short_runs) >= 4096:
                    self.short_runs.clear()
                self.short_runs[text] = ids
        return ids


def plain_pieces(text, flags, start):
    """Plain `Piece`s of `text` within which `flags[start + i]` is constant."""
    first = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or flags[start + i] != flags[start + first]:
            yield Piece("plain", text[first:i], flags[start + first])
            first = i
