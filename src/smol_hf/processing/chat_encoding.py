"""Pieces of a rendered conversation → token ids and labels, so that user text can never become a special token.

Special tokens are recognised only in what the chat template wrote. The texts of the conversation are put into their
places and tokenised as plain text, together with the template's plain text around them, so that words merge across
the border as they would in one string. What the assistant generates is tokenised by itself: no token reaches over the
end of a prompt, since at inference none does. `chat_rendering` says what a template writes.
"""

import json
import re
from itertools import groupby
from operator import itemgetter

from .chat_format import IGNORE_INDEX

TRAINED, UNTRAINED = 1, 2  # text that the assistant generates, with labels and without
PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


def plain_tokenizer(tokenizer, control_tokens):
    """A copy of the fast tokenizer's engine that reads special tokens in a text as ordinary characters.

    `control_tokens` are treated as special even where the tokenizer's file does not mark them so.
    """
    engine = tokenizer.backend_tokenizer
    description = json.loads(engine.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in control_tokens
    description["post_processor"] = None
    description["truncation"] = description["padding"] = None
    plain = type(engine).from_str(json.dumps(description))
    plain.encode_special_tokens = True
    return plain


def vocabulary_key(tokenizer):
    """Parts of a tokenizer on which a `ChatEncoder` depends, to compare with what they are later."""
    added = [(number, str(token), token.special) for number, token in tokenizer.added_tokens_decoder.items()]
    return tokenizer, added, tokenizer.special_tokens_map


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

    def special_in(self, value):
        """A special token in the strings of a nested value, or None."""
        if isinstance(value, str):
            found = next((match for match in self.piece.finditer(value) if match.group(2) is None), None)
            return found and found.group(0)
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, (list, tuple)):
            return next((found for each in value if (found := self.special_in(each))), None)
        return None

    def split(self, rendered, spans, texts=True, images=True):
        """What the template wrote → pieces (kind, value, flag): plain text, text number n, special id, image.

        `spans` of generated text are (start, end, TRAINED or UNTRAINED); the flag of any other text is 0.
        """
        generated = bytearray(len(rendered) + 1)
        for start, end, flag in spans:
            generated[start:end] = bytes([flag]) * (end - start)
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
        """Pieces → (input_ids, labels), two lists of equal length; labels are -100 outside trained text.

        Args:
            texts: what stands at the pieces ("text", number, generated), by number.
            image_blocks: the tokens of each image, in reading order, from `encode_block`.

        Raises:
            ValueError: when there are places for another number of images than there are blocks.
        """
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
                labels += ids if flag == TRAINED else [IGNORE_INDEX] * len(ids)
                shown += kind == "image"
        self.encode_run(run, input_ids, labels)
        if shown != len(image_blocks):
            raise ValueError(f"the text has places for {shown} images, but {len(image_blocks)} images were given")
        return input_ids, labels

    def encode_run(self, run, input_ids, labels):
        """Plain text between two special tokens, tokenised as one string, or as several where generated text begins
        or ends."""
        for flag, pieces in groupby(run, key=itemgetter(1)):
            ids = self.tokenise("".join(text for text, _ in pieces))
            input_ids += ids
            labels += ids if flag == TRAINED else [IGNORE_INDEX] * len(ids)
        run.clear()

    def tokenise(self, text):
        """Plain text → ids. Short texts, such as the template's own words, come again and are remembered."""
        ids = self.short_runs.get(text)
        if ids is None:
            ids = self.plain.encode(text, add_special_tokens=False).ids
            if len(text) <= 64:
                if len(self.short_runs) >= 4096:
                    self.short_runs.clear()
                self.short_runs[text] = ids
        return ids


def plain_pieces(text, flags, start):
    """("plain", piece, flag) for the pieces of `text` within which `flags[start + i]` is constant."""
    first = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or flags[start + i] != flags[start + first]:
            yield "plain", text[first:i], flags[start + first]
            first = i
