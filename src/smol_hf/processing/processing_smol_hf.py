"""The processor: messages and images → `input_ids`, `labels` and uint8 tiles. It needs no torchvision.

    images                            messages
      │ image_tiling                    │ chat_rendering: the chat template, with one token per image
      │                                 │ image_styles: each of these becomes the tokens of its tiles
      │                                 │ chat_encoding: tokenised; what the assistant generates gets labels
    tiles (tiles, 3, side, side)      input_ids, labels

The model replaces the embeddings of the image tokens by the features of the tiles, in this order.
"""

import copy

import numpy as np
from transformers import ProcessorMixin

from .batching import EncodedSample, sizes_of
from .chat_encoding import ChatEncoder
from .chat_format import DEFAULT_CHAT_TEMPLATE, IMAGE_TOKEN
from .chat_turns import encode_turns, refuse_unwritten_fields
from .image_styles import build_style
from .plain_tokenizer import vocabulary_key
from .processor_calls import Cache, ProcessorCalls


class SmolHFProcessor(ProcessorCalls, ProcessorMixin):
    """A tokenizer, and how images become tiles and tokens.

    Args:
        tokenizer: a fast tokenizer that holds `control_tokens`, with padding and end-of-sequence tokens.
        tile_size: side in pixels of the square that the image encoder sees (its `image_size`).
        image_seq_len: tokens that one tile becomes in the model (`SmolHFConfig.image_seq_len`).
        longest_edge: pixels to which the longer side of an image is brought first; `tile_size` when None.
        do_image_splitting: cut large images into a grid of tiles plus an overview.
        image_token: the token that stands for one image feature, and in a chat template for a whole image.
        enlarge_images: bring small images to `longest_edge` too.
        image_style: how images are cut and written, see `image_styles`.

    Raises:
        ValueError: when the tokenizer lacks a token, naming it; for options that do not go together.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"
    model_input_names = ["input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"]

    def __init__(
        self, tokenizer, tile_size=512, image_seq_len=64, longest_edge=None, do_image_splitting=True,
        chat_template=None, image_token=IMAGE_TOKEN, image_style="smolvlm", enlarge_images=True,
    ):  # fmt: skip
        self.tile_size = tile_size
        self.image_seq_len = image_seq_len
        self.longest_edge = longest_edge or tile_size
        self.do_image_splitting = do_image_splitting
        self.image_token = image_token
        self.image_style = image_style
        self.enlarge_images = enlarge_images
        super().__init__(tokenizer, chat_template=chat_template or DEFAULT_CHAT_TEMPLATE)
        self.check_tokens()
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._cache = Cache()

    def check_tokens(self):
        vocabulary = self.tokenizer.get_vocab()
        missing = [token for token in self.control_tokens if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} tokens for images, first {missing[0]}: add them")

    @property
    def style(self):
        """How images are cut and written. Raises ValueError for settings that exclude each other."""
        return build_style(self)

    @property
    def tiler(self):
        return self.style.tiler

    @property
    def control_tokens(self):
        """The tokens with which images are written."""
        return self.style.control_tokens

    @property
    def encoder(self):
        key = self.control_tokens, vocabulary_key(self.tokenizer)
        if self._cache.get("key") != key:
            control = {*self.control_tokens, *self.tokenizer.all_special_tokens}
            self._cache.clear()
            self._cache.update(key=key, encoder=ChatEncoder(self.tokenizer, self.image_token, control))
        return self._cache["encoder"]

    def with_settings(self, **settings):
        """The same processor with other settings, such as `longest_edge`. Raises ValueError for missing tokens."""
        if all(getattr(self, name) == value for name, value in settings.items()):
            return self
        other = copy.copy(self)
        other.__dict__.update(settings)
        other.check_tokens()
        if set(other.control_tokens) <= set(self.control_tokens):
            key = other.control_tokens, vocabulary_key(other.tokenizer)
            other._cache.update(key=key, encoder=self.encoder)
        return other

    def image_block_ids(self, height, width):
        """The token ids of an image of this size. There are few grids, so each is tokenised once."""
        key = (*self.tiler.grid(height, width), self.image_seq_len)
        if key not in self._cache:
            self._cache[key] = self.encoder.encode_block(self.style.write(*key))
        return self._cache[key]

    def image_blocks(self, sizes):
        """The token ids of each image of a conversation, given their (height, width) in reading order."""
        encoder = self.encoder  # first: it forgets blocks of another tokenizer
        blocks = [self.image_block_ids(*size) for size in sizes]
        names = [self.style.write_before(index, len(blocks)) for index in range(len(blocks))]
        return [encoder.encode_block(name) + block if name else block for name, block in zip(names, blocks)]

    def encode_text(self, messages, image_sizes, add_generation_prompt=False, chat_template=None):
        """Token ids and labels of a conversation whose images have these (height, width): nothing is decoded.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, see `chat_rendering`, and for
                labels when the template does not write a field of a message.
            ValueError: when the messages show another number of images than there are sizes.
        """
        blocks, renderer = self.image_blocks(image_sizes), self.renderer(chat_template)
        if not add_generation_prompt:
            refuse_unwritten_fields(renderer, messages)
        return renderer.encode(messages, blocks, asks=add_generation_prompt)

    def encode_turns(self, messages, image_sizes=(), tools=None):
        """The sequences that a conversation is trained as, see `chat_turns.encode_turns`."""
        renderer = self.renderer().with_tools(tools)
        return encode_turns(renderer, messages, lambda number: self.image_blocks(image_sizes[:number]))

    def encode(self, messages, images=(), add_generation_prompt=False, chat_template=None):
        """A conversation (messages in the chat format, PIL images in reading order) → `EncodedSample`.

        Labels cover what the template generates: the assistant's answers and the token that ends each.
        """
        input_ids, labels = self.encode_text(messages, sizes_of(images), add_generation_prompt, chat_template)
        return EncodedSample(input_ids, labels, self.tiles(images))

    def tiles(self, images):
        """PIL images → uint8 (tiles, 3, side, side), all tiles of all images in order."""
        if not images:
            return np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)
        return np.concatenate([self.tiler.tiles(image) for image in images])


# transformers 4.57 copies only the files that this file names into its cache, not the files that those name.
from .bounded_rendering import render_bounded  # noqa: E402, F401
from .chat_answers import find_ending  # noqa: E402, F401
from .chat_messages import part_type  # noqa: E402, F401
from .chat_pieces import pieces_of  # noqa: E402, F401
from .chat_rendering import ChatRenderer  # noqa: E402, F401
from .image_input import images_of  # noqa: E402, F401
from .image_pixels import planes  # noqa: E402, F401
from .image_tiling import ImageTiler  # noqa: E402, F401
from .portable_tokenizer import write_portable_tokenizer_config  # noqa: E402, F401
from .processor_options import read_options  # noqa: E402, F401
