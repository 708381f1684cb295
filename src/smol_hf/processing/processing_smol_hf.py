"""The processor: messages, images and videos → `input_ids`, `labels` and uint8 tiles. It needs no torchvision.

    images and frames                 messages
      │ image_tiling                    │ video_text: a video becomes text and images
      │                                 │ chat_rendering: the chat template, with one token per image
      │                                 │ image_styles: this token becomes the tokens of the image's tiles
      │                                 │ chat_encoding: text becomes ids; generated text gets labels
    tiles (tiles, 3, side, side)      input_ids, labels

The model replaces the embeddings of the image tokens by the features of the tiles, in the same order.
"""

from .chat_format import DEFAULT_CHAT_TEMPLATE, IMAGE_TOKEN
from .processor_calls import ProcessorCalls
from .processor_encoding import Cache
from .video_sampling import VideoSampling
from .video_text import video_style_of


class SmolHFProcessor(ProcessorCalls):
    """A tokenizer, and the settings by which images and videos become tiles and tokens.

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
        _ = self.video_sampling, video_style_of(video_style)  # checked
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._cache = Cache()

    @property
    def video_sampling(self):
        """The `VideoSampling` of the current settings."""
        return VideoSampling(self.video_fps, self.video_max_frames, self.video_min_frames)


# transformers 4.57 copies only the files that this file names into its cache, not the files that those name.
from .batching import batch_of  # noqa: E402, F401
from .call_options import CallOptions  # noqa: E402, F401
from .chat_answers import find_ending  # noqa: E402, F401
from .chat_encoding import ChatEncoder  # noqa: E402, F401
from .chat_pieces import pieces_of  # noqa: E402, F401
from .chat_rendering import ChatRenderer  # noqa: E402, F401
from .chat_turns import encode_turns  # noqa: E402, F401
from .image_input import as_image  # noqa: E402, F401
from .image_pixels import canvas  # noqa: E402, F401
from .image_styles import style_of  # noqa: E402, F401
from .image_tiling import ImageTiler  # noqa: E402, F401
from .media_input import media_of  # noqa: E402, F401
from .plain_tokenizer import plain_tokenizer  # noqa: E402, F401
from .processor_options import read_options  # noqa: E402, F401
from .video_decoding import VideoError  # noqa: E402, F401
from .video_frames import FrameList  # noqa: E402, F401
from .video_input import as_video  # noqa: E402, F401
from .video_reader import open_video  # noqa: E402, F401
from .video_styles import STYLES  # noqa: E402, F401
