"""The processor: messages and pictures → `input_ids`, `labels` and uint8 tiles. It needs no torchvision."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .chat_encoding import ChatEncoder
from .chat_format import DEFAULT_CHAT_TEMPLATE, IMAGE_TOKEN
from .image_input import distribute, images_of
from .image_styles import before_picture, build_tiler, check_style, control_tokens, write_picture
from .image_tiling import ImageTiler  # noqa: F401
from .label_loss import IGNORE_INDEX


@dataclass
class EncodedSample:
    """One conversation, ready to be collated: `input_ids` and `labels` (-100 = not trained) of equal length, and
    `tiles` uint8 (tiles, 3, side, side) in the order of the image tokens."""

    input_ids: list
    labels: list
    tiles: np.ndarray


class SmolHFProcessor(ProcessorMixin):
    """Args:
        tokenizer: a fast tokenizer that holds `control_tokens`, with padding and end-of-sequence tokens.
        tile_size: side in pixels of the square that the image encoder sees (its `image_size`).
        image_seq_len: tokens that one tile becomes in the model (`SmolHFConfig.image_seq_len`).
        longest_edge: pixels to which the longer side of a picture is brought first; `tile_size` when None.
        do_image_splitting: cut large pictures into a grid of tiles plus an overview.
        image_token: the token that stands for one image feature, and in a chat template for a whole picture.
        enlarge_images: bring small pictures to `longest_edge` too.
        image_style: how pictures are cut and written, see `image_styles`.

    Raises:
        ValueError: when the tokenizer lacks a token, naming it; for options that do not go together.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"
    model_input_names = ["input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"]

    def __init__(
        self,
        tokenizer,
        tile_size=512,
        image_seq_len=64,
        longest_edge=None,
        do_image_splitting=True,
        chat_template=None,
        image_token=IMAGE_TOKEN,
        image_style="smolvlm",
        enlarge_images=True,
        **kwargs,
    ):
        self.tile_size = tile_size
        self.image_seq_len = image_seq_len
        self.longest_edge = longest_edge or tile_size
        self.do_image_splitting = do_image_splitting
        self.image_token = image_token
        self.image_style = image_style
        self.enlarge_images = enlarge_images
        check_style(image_style, image_token, do_image_splitting)
        super().__init__(tokenizer, chat_template=chat_template or DEFAULT_CHAT_TEMPLATE)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in self.control_tokens if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} tokens for images, first {missing[0]}: add them")
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._encoder, self._blocks = None, {}

    @property
    def tiler(self):
        return build_tiler(
            self.image_style, self.tile_size, self.longest_edge, self.do_image_splitting, self.enlarge_images
        )

    @property
    def control_tokens(self):
        """The tokens with which pictures are written."""
        return control_tokens(self.image_style, self.image_token, self.tiler.max_tiles_per_side)

    @property
    def encoder(self):
        if self._encoder is None:
            control = set(self.control_tokens) | set(self.tokenizer.all_special_tokens)
            self._encoder = ChatEncoder(self.tokenizer, self.image_token, control)
        return self._encoder

    def __getstate__(self):
        # The encoder is rebuilt where it is needed: a data loader's worker gets the processor without it.
        return {**self.__dict__, "_encoder": None, "_blocks": {}}

    def image_block_ids(self, height, width):
        """The token ids of a picture of this size. There are few grids, so each is tokenised once."""
        grid = self.tiler.grid(height, width)
        key = (*grid, self.image_seq_len)
        if key not in self._blocks:
            self._blocks[key] = self.encoder.encode_block(write_picture(self.image_style, *key, self.image_token))
        return self._blocks[key]

    def image_blocks(self, sizes):
        """The token ids of each picture of a conversation, given their (height, width) in reading order."""
        blocks = [self.image_block_ids(*size) for size in sizes]
        for index, block in enumerate(blocks):
            name = before_picture(self.image_style, index, len(blocks))
            blocks[index] = self.encoder.encode_block(name) + block if name else block
        return blocks

    def encode_text(self, messages, image_sizes, add_generation_prompt=False, chat_template=None):
        """Token ids and labels of a conversation whose pictures have these (height, width): nothing is decoded.

        Raises:
            ValueError: when the messages show another number of images than there are sizes.
        """
        blocks = self.image_blocks(image_sizes)
        return self.encoder.encode_messages(
            messages, blocks, chat_template or self.chat_template, add_generation_prompt
        )

    def encode(self, messages, images=(), add_generation_prompt=False, chat_template=None):
        """A conversation (messages in the chat format, PIL images in reading order) → `EncodedSample`.

        Labels cover what the template generated: the assistant's answers and the token that ends each.
        """
        sizes = [(image.height, image.width) for image in images]
        input_ids, labels = self.encode_text(messages, sizes, add_generation_prompt, chat_template)
        return EncodedSample(input_ids, labels, self.tiles(images))

    def tiles(self, images):
        """PIL images → uint8 (tiles, 3, side, side), all tiles of all images in order."""
        if not images:
            return np.zeros((0, 3, self.tile_size, self.tile_size), dtype=np.uint8)
        return np.concatenate([self.tiler.tiles(image) for image in images])

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        add_generation_prompt=False,
        tokenize=False,
        return_dict=False,
        return_tensors=None,
        return_assistant_tokens_mask=False,
        padding=True,
        **kwargs,
    ):
        """As in transformers. With `tokenize=True`, texts of the conversation never become special tokens.

        Images stand in the parts: `{"type": "image", "image": PIL image, path or URL}` (or under `path`, `url`).
        """
        if not tokenize:
            return super().apply_chat_template(
                conversation, chat_template, add_generation_prompt=add_generation_prompt, **kwargs
            )
        refuse_cutting(kwargs)
        if kwargs.get("continue_final_message"):
            raise ValueError("continue_final_message is not supported with tokenize=True: end with the user's turn")
        batched = isinstance(conversation[0], (list, tuple))
        encoded = [
            self.encode(messages, images_of(messages), add_generation_prompt, chat_template)
            for messages in (conversation if batched else [conversation])
        ]
        batch = self.pad(encoded, padding, return_assistant_tokens_mask)
        if not batched and return_tensors is None:
            batch = {name: values[0] for name, values in batch.items()}
        batch = BatchFeature(batch, tensor_type=return_tensors)
        return batch if return_dict else batch["input_ids"]

    def __call__(self, images=None, text=None, return_tensors=None, padding=True, **kwargs):
        """Prompts made by `apply_chat_template(…, tokenize=False)` (special tokens in them count) and their images.

        Args:
            text: a string or a list of strings.
            images: one image, a list in reading order of all prompts, or one list per prompt.
        """
        refuse_cutting(kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        per_text = distribute(images, [prompt.count(self.image_token) for prompt in texts])
        encoded = []
        for prompt, prompt_images in zip(texts, per_text):
            blocks = self.image_blocks([(image.height, image.width) for image in prompt_images])
            input_ids, labels = self.encoder.encode_prompt(prompt, blocks)
            encoded.append(EncodedSample(input_ids, labels, self.tiles(prompt_images)))
        return BatchFeature(self.pad(encoded, padding), tensor_type=return_tensors)

    def pad(self, encoded, padding=True, return_assistant_tokens_mask=False):
        """Samples → rows of equal length, padded on the tokenizer's side, and tiles (batch, tiles, 3, side, side).

        `pixel_attention_mask` (batch, tiles, side, side) is 0 on the tiles that only fill up.
        """
        length = max(len(sample.input_ids) for sample in encoded) if padding else None
        batch = {"input_ids": [], "attention_mask": []}
        if return_assistant_tokens_mask:
            batch["assistant_masks"] = []
        for sample in encoded:
            count = len(sample.input_ids)
            fill = (length - count) if padding else 0
            if fill and self.tokenizer.pad_token_id is None:
                raise ValueError("the tokenizer has no padding token: set tokenizer.pad_token")

            def padded(values, value, fill=fill):
                blank = [value] * fill
                return blank + values if self.tokenizer.padding_side == "left" else values + blank

            batch["input_ids"].append(padded(sample.input_ids, self.tokenizer.pad_token_id))
            batch["attention_mask"].append(padded([1] * count, 0))
            if return_assistant_tokens_mask:
                batch["assistant_masks"].append(padded([int(label != IGNORE_INDEX) for label in sample.labels], 0))
        most = max(len(sample.tiles) for sample in encoded)
        if most:
            side = self.tile_size
            pixels = np.zeros((len(encoded), most, 3, side, side), dtype=np.uint8)
            mask = np.zeros((len(encoded), most, side, side), dtype=bool)
            for row, sample in enumerate(encoded):
                pixels[row, : len(sample.tiles)] = sample.tiles
                mask[row, : len(sample.tiles)] = True
            batch["pixel_values"], batch["pixel_attention_mask"] = torch.from_numpy(pixels), torch.from_numpy(mask)
        return batch

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """As in transformers, with the tokenizer's configuration in the form that 4.57 reads as well as 5.x."""
        super().save_pretrained(save_directory, push_to_hub=False)
        write_portable_tokenizer_config(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(**kwargs)
        return [str(path) for path in Path(save_directory).glob("*.json")]


def refuse_cutting(options):
    """Raises ValueError for options that would cut a prompt, and with it perhaps an image."""
    for name in ("truncation", "max_length"):
        if options.get(name):
            raise ValueError(f"{name} is not supported: a prompt that is cut may lose half an image")


def write_portable_tokenizer_config(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["model_input_names"] = ["input_ids", "attention_mask"]
    config["padding_side"] = "left"  # answers of a batch begin in the same column; transformers 5 would not save it
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
