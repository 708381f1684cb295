"""Conversations and their images and videos → `input_ids`, `labels` and tiles, with the settings of a processor."""

import copy
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from .batching import EncodedSample, sizes_of
from .chat_encoding import ChatEncoder
from .chat_rendering import ChatRenderer
from .chat_turns import encode_turns, expand_videos, refuse_unwritten_fields
from .image_styles import style_of
from .video_text import FRAME


class Cache(dict):
    """Values that are computed once. A copy of the processor begins with an empty cache."""

    def __deepcopy__(self, memo):
        return Cache()


class ProcessorEncoding(ProcessorMixin):
    """Encodes samples for a processor that defines the settings below."""

    tokenizer: PreTrainedTokenizerFast
    chat_template: Any
    tile_size: int
    image_seq_len: int
    image_token: str
    image_token_id: int
    video_style: str
    longest_edge: int
    do_image_splitting: bool
    enlarge_images: bool
    image_style: str
    video_frame_size: int
    _cache: Cache

    def __getstate__(self):
        # A data loader's worker receives the processor without its encoder, and builds it again.
        return {**self.__dict__, "_cache": Cache()}

    @property
    def style(self):
        """The `ImageStyle` of the current settings. Raises ValueError for settings that exclude each other."""
        settings = self.tile_size, self.longest_edge, self.do_image_splitting, self.enlarge_images, self.image_token
        return style_of(self.image_style, *settings)

    @property
    def tiler(self):
        return self.style.tiler

    @property
    def frame_tiler(self):
        """The tiler of video frames: each is one tile."""
        settings = self.tile_size, self.video_frame_size, False, self.enlarge_images, self.image_token
        return style_of(self.image_style, *settings).tiler

    @property
    def control_tokens(self):
        return self.style.control_tokens

    @property
    def encoder(self):
        """The `ChatEncoder`, built again if the tokenizer or the tokens of images have changed."""
        tokenizer, control_tokens = self.tokenizer, self.style.control_tokens
        key = control_tokens, tokenizer, len(tokenizer), tokenizer.special_tokens_map
        if self._cache.get("key") != key:
            self._cache.update(key=key, encoder=ChatEncoder(tokenizer, self.image_token, control_tokens))
        return self._cache["encoder"]

    def renderer(self, chat_template=None):
        """Return the renderer of a chat template, given as text or by name, or of the processor's own."""
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        template = named.get(chat_template or "default", chat_template)
        if template is None:
            raise ValueError(f"the processor has no chat template 'default': choose one of {sorted(named)}")
        encoder = self.encoder
        if template not in encoder.renderers:
            encoder.renderers[template] = ChatRenderer(encoder, template)
        return encoder.renderers[template]

    def with_settings(self, **settings):
        """Copy the processor with other settings, such as `longest_edge`. Raises ValueError for missing tokens."""
        if all(getattr(self, name) == value for name, value in settings.items()):
            return self
        other = copy.copy(self)
        other.__dict__.update(settings)
        other.style.check(self.tokenizer)
        if set(other.style.control_tokens) <= set(self.style.control_tokens):
            encoder, (_, *tokenizer) = self.encoder, self._cache["key"]
            other._cache.update(key=(other.style.control_tokens, *tokenizer), encoder=encoder)
        return other

    def image_block_ids(self, height, width):
        """Return the token ids of one image of this size."""
        return self.image_blocks([(height, width)])[0]

    def image_blocks(self, sizes):
        """Return the token ids of each image of a conversation, from their sizes in reading order.

        Args:
            sizes: (height, width) of each image, or FRAME.
        """
        encoder, style, blocks = self.encoder, self.style, []
        for size in sizes:
            rows, columns = (0, 0) if size is FRAME else style.tiler.grid(*size)
            key = style, rows, columns, self.image_seq_len
            if key not in encoder.image_blocks:  # there are few grids
                encoder.image_blocks[key] = encoder.encode_block(style.write(rows, columns, self.image_seq_len))
            blocks.append(encoder.image_blocks[key])
        images = [place for place, size in enumerate(sizes) if size is not FRAME]
        for index, place in enumerate(images if len(images) > 1 else ()):
            blocks[place] = encoder.encode_block(style.write_before(index, len(images))) + blocks[place]
        return blocks

    def encode_text(self, messages, media, add_generation_prompt=False, chat_template=None):
        """Encode messages and the sizes of their images and videos, see `expand_videos` and `ChatRenderer.encode`."""
        messages, sizes = expand_videos(messages, media, self.video_style)
        renderer = self.renderer(chat_template)
        if not add_generation_prompt:
            refuse_unwritten_fields(renderer, messages)
        return renderer.encode(messages, self.image_blocks(sizes), add_generation_prompt)

    def encode_turns(self, messages, media=(), tools=None):
        """Encode a conversation as its trained sequences, see `expand_videos` and `chat_turns.encode_turns`."""
        messages, sizes = expand_videos(messages, media, self.video_style)
        renderer = self.renderer().with_tools(tools) if tools else self.renderer()
        return encode_turns(renderer, messages, sizes, self.image_blocks)

    def encode(self, messages, media=(), add_generation_prompt=False, chat_template=None):
        """Encode messages and their media → `EncodedSample`. Answers have labels.

        Args:
            media: PIL images and `ChosenVideo`s in reading order.
        """
        input_ids, labels = self.encode_text(messages, sizes_of(media), add_generation_prompt, chat_template)
        return EncodedSample(input_ids, labels, self.tiles(media))

    def tiles(self, media):
        """PIL images and `ChosenVideo`s → uint8 (tiles, 3, side, side), all tiles in order."""
        tiles = [np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)]
        for each in media:
            if hasattr(each, "times"):
                tiles += map(self.frame_tiler.tiles, each.frames())
            else:
                tiles.append(self.style.tiler.tiles(each))
        return np.concatenate(tiles)
