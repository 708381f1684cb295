"""The processor: messages and images → `input_ids`, `labels` and uint8 tiles. It needs no torchvision.

    images                            messages
      │ image_tiling                    │ chat_rendering: the chat template, with one token per image
      │                                 │ image_styles: this token becomes the tokens of the image's tiles
      │                                 │ chat_encoding: text becomes ids; generated text gets labels
    tiles (tiles, 3, side, side)      input_ids, labels

The model replaces the embeddings of the image tokens by the features of the tiles, in the same order.
"""

import copy

import numpy as np

from .batching import EncodedSample, sizes_of
from .chat_encoding import ChatEncoder
from .chat_format import DEFAULT_CHAT_TEMPLATE, IMAGE_TOKEN
from .chat_rendering import ChatRenderer
from .chat_turns import encode_turns, refuse_unwritten_fields
from .image_styles import style_of
from .processor_calls import Cache, ProcessorCalls
from .video_sampling import VideoSampling
from .video_text import FRAME, expand_videos


class SmolHFProcessor(ProcessorCalls):
    """A tokenizer, and the settings by which images become tiles and tokens.

    Args:
        tokenizer: a fast tokenizer with `control_tokens`, a padding token and an end-of-sequence token.
        tile_size: side in pixels of the square that the image encoder reads (its `image_size`).
        image_seq_len: image tokens of one tile (`SmolHFConfig.image_seq_len`).
        longest_edge: pixels to which the longer side of an image is resized first; None: `tile_size`.
        do_image_splitting: cut large images into a grid of tiles and an overview.
        image_token: the token of one image feature; in a chat template, of a complete image.
        enlarge_images: enlarge small images to `longest_edge` too.
        image_style: the tiles and tokens of images, see `image_styles`.
        video_fps, video_max_frames, video_min_frames: the frames that are chosen, see `video_sampling`.
        video_frame_size: pixels to which the longer side of a frame is resized first; None: `tile_size`.
        video_style: the text around frames, see `video_text`.

    Raises ValueError if the tokenizer lacks a token, which is named, and for options that exclude each other.
    """

    attributes = ["tokenizer"]  # pyright: ignore - this list and the next are properties in transformers 5's base
    model_input_names = ["input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"]  # pyright: ignore
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self, tokenizer, tile_size=512, image_seq_len=64, longest_edge=None, do_image_splitting=True,
        chat_template=None, image_token=IMAGE_TOKEN, image_style="smolvlm", enlarge_images=True,
        video_fps=1.0, video_max_frames=64, video_min_frames=1, video_frame_size=None, video_style="smolvlm",
    ):  # fmt: skip
        self.tile_size, self.image_seq_len, self.longest_edge = tile_size, image_seq_len, longest_edge or tile_size
        self.do_image_splitting, self.enlarge_images = do_image_splitting, enlarge_images
        self.image_token, self.image_style = image_token, image_style
        self.video_fps, self.video_max_frames, self.video_min_frames = video_fps, video_max_frames, video_min_frames
        self.video_frame_size, self.video_style = video_frame_size or tile_size, video_style
        super().__init__(tokenizer, chat_template=chat_template or DEFAULT_CHAT_TEMPLATE)
        self.style.check(tokenizer)
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._cache = Cache()

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
        return self.with_settings(do_image_splitting=False, longest_edge=self.video_frame_size).tiler

    @property
    def video_sampling(self):
        """The `VideoSampling` of the current settings."""
        return VideoSampling(self.video_fps, self.video_max_frames, self.video_min_frames)

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
        if set(other.control_tokens) <= set(self.control_tokens):
            encoder, (_, *tokenizer) = self.encoder, self._cache["key"]
            other._cache.update(key=(other.control_tokens, *tokenizer), encoder=encoder)
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
            grid = (0, 0) if size is FRAME else style.tiler.grid(*size)
            key = style, *grid, self.image_seq_len
            if key not in encoder.image_blocks:  # there are few grids
                encoder.image_blocks[key] = encoder.encode_block(style.write(*key[1:]))
            blocks.append(encoder.image_blocks[key])
        if len(blocks) > 1:
            names = [encoder.encode_block(style.write_before(index, len(blocks))) for index in range(len(blocks))]
            blocks = [name + block for name, block in zip(names, blocks)]
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

    def encode(self, messages, images=(), add_generation_prompt=False, chat_template=None):
        """Encode messages and their PIL images (in reading order) → `EncodedSample`. Answers have labels."""
        input_ids, labels = self.encode_text(messages, sizes_of(images), add_generation_prompt, chat_template)
        return EncodedSample(input_ids, labels, self.tiles(images))

    def tiles(self, images):
        """PIL images → uint8 (tiles, 3, side, side), all tiles of all images in order."""
        none = np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)
        return np.concatenate([none, *map(self.style.tiler.tiles, images)])


# transformers 4.57 copies only the files that this file names into its cache, not the files that those name.
from .chat_answers import find_ending  # noqa: E402, F401
from .chat_pieces import pieces_of  # noqa: E402, F401
from .image_input import images_of  # noqa: E402, F401
from .image_pixels import canvas  # noqa: E402, F401
from .image_tiling import ImageTiler  # noqa: E402, F401
from .plain_tokenizer import plain_tokenizer  # noqa: E402, F401
from .processor_options import read_options  # noqa: E402, F401
from .video_decoding import VideoError  # noqa: E402, F401
from .video_reader import open_video  # noqa: E402, F401
