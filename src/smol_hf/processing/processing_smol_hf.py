"""The processor: messages and pictures → `input_ids`, `labels` and uint8 tiles. It needs no torchvision."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from .batching import DEFAULT, batch_of, stacked_tiles
from .bounded_rendering import render_bounded  # noqa: F401
from .chat_encoding import ChatEncoder, vocabulary_key
from .chat_format import DEFAULT_CHAT_TEMPLATE, IMAGE_TOKEN
from .chat_messages import part_type  # noqa: F401
from .chat_rendering import ChatRenderer, renderer_of
from .image_input import groups_of, images_of, is_image, is_image_place, is_text
from .image_styles import before_picture, build_tiler, check_style, control_tokens, write_picture
from .image_tiling import ImageTiler  # noqa: F401
from .portable_tokenizer import write_portable_tokenizer_config
from .processor_options import options_and_variables, read_options


class Cache(dict):
    """What is made once and is no part of a copy."""

    def __deepcopy__(self, memo):
        return Cache()


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
        self.check_tokens()
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self._cache = Cache()

    def check_tokens(self):
        vocabulary = self.tokenizer.get_vocab()
        missing = [token for token in self.control_tokens if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} tokens for images, first {missing[0]}: add them")

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
        key = self.control_tokens, vocabulary_key(self.tokenizer)
        if self._cache.get("key") != key:
            control = {*self.control_tokens, *self.tokenizer.all_special_tokens}
            self._cache.clear()
            self._cache.update(key=key, encoder=ChatEncoder(self.tokenizer, self.image_token, control))
        return self._cache["encoder"]

    @property
    def image_processor(self):
        """What prepares images: this processor. A pipeline of transformers asks for it when it makes batches."""
        return self

    def __getstate__(self):
        # The encoder is rebuilt where it is needed: a data loader's worker gets the processor without it.
        return {**self.__dict__, "_cache": Cache()}

    def with_settings(self, **settings):
        """The same processor with other settings, such as `longest_edge`. Raises ValueError for missing tokens."""
        if all(getattr(self, name) == value for name, value in settings.items()):
            return self
        other = copy.copy(self)
        other.__dict__.update(settings)
        check_style(other.image_style, other.image_token, other.do_image_splitting)
        other.check_tokens()
        if set(other.control_tokens) <= set(self.control_tokens):
            key = other.control_tokens, vocabulary_key(other.tokenizer)
            other._cache.update(key=key, encoder=self.encoder)
        return other

    def image_block_ids(self, height, width):
        """The token ids of a picture of this size. There are few grids, so each is tokenised once."""
        key = (*self.tiler.grid(height, width), self.image_seq_len)
        if key not in self._cache:
            self._cache[key] = self.encoder.encode_block(write_picture(self.image_style, *key, self.image_token))
        return self._cache[key]

    def image_blocks(self, sizes):
        """The token ids of each picture of a conversation, given their (height, width) in reading order."""
        encoder = self.encoder  # first: it forgets blocks of another tokenizer
        blocks = [self.image_block_ids(*size) for size in sizes]
        for index, block in enumerate(blocks):
            name = before_picture(self.image_style, index, len(blocks))
            blocks[index] = encoder.encode_block(name) + block if name else block
        return blocks

    def renderer(self, chat_template=None, variables=None):
        """What writes conversations by a chat template: its text, its name where the processor has several, or by
        default the processor's own."""
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        template = named.get(chat_template or "default", chat_template)
        if template is None:
            raise ValueError(f"there are several chat templates, none of them 'default': name one of {sorted(named)}")
        return ChatRenderer(self.encoder, template, variables) if variables else renderer_of(self.encoder, template)

    def encode_text(self, messages, image_sizes, add_generation_prompt=False, chat_template=None):
        """Token ids and labels of a conversation whose pictures have these (height, width): nothing is decoded.

        Raises:
            ChatTemplateError: when it cannot be known exactly what is generated, see `chat_rendering`.
            ValueError: when the messages show another number of images than there are sizes.
        """
        blocks = self.image_blocks(image_sizes)
        return self.renderer(chat_template).encode(messages, blocks, asks=add_generation_prompt)

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

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        tools=None,
        documents=None,
        add_generation_prompt=False,
        continue_final_message=False,
        return_assistant_tokens_mask=False,
        tokenize=False,
        return_tensors=None,
        return_dict=False,
        processor_kwargs=None,
        sanitize_control_tokens=True,
        **kwargs,
    ):
        """As in transformers. With `tokenize=True`, texts of the conversation never become special tokens.

        Images stand in the parts: `{"type": "image", "image": PIL image, array, base64, path or URL}` (or under
        `path`, `url`, `base64`), or OpenAI's `{"type": "image_url", "image_url": {"url": …}}`.

        Args:
            processor_kwargs: options of `__call__`; they may be given by name too.
            kwargs: further variables of the chat template.

        Raises:
            TypeError: for a name that neither the processor nor the template knows.
            ValueError: for a conversation without messages.
        """
        if not len(conversation):
            raise ValueError("there is nothing to write: give a conversation, a list of messages")
        if add_generation_prompt and continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message exclude each other: choose one")
        template = self.renderer(chat_template).template
        options, variables = options_and_variables(kwargs, template)
        options.update(processor_kwargs or {})
        given = {"tools": tools, "documents": documents, **variables}
        renderer = self.renderer(
            chat_template, {name: value for name, value in given.items() if value is not None or name in variables}
        )
        batched = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        conversations = [getattr(each, "messages", each) for each in (conversation if batched else [conversation])]
        if not tokenize:
            texts = [renderer.text(each, add_generation_prompt, continue_final_message) for each in conversations]
            return texts if batched else texts[0]
        if return_tensors is not None:
            options["return_tensors"] = return_tensors
        options = self.options(options)
        at = self.with_settings(**options.settings(self))
        encoded = []
        for messages in conversations:
            images = images_of(messages, options.input_data_format)
            ids_and_labels = renderer.encode(
                messages,
                at.image_blocks(sizes_of(images)),
                add_generation_prompt,
                continue_final_message,
                labelled=return_assistant_tokens_mask,
            )
            encoded.append(EncodedSample(*ids_and_labels, at.tiles(images)))
        batch = at.pad(encoded, options, return_assistant_tokens_mask)
        if not batched and options.return_tensors is None:
            batch = {name: values[0] for name, values in batch.items()}
        batch = BatchFeature(batch, tensor_type=options.return_tensors)
        return batch if return_dict else batch["input_ids"]

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Prompts made by `apply_chat_template(…, tokenize=False)` (special tokens in them count) and their images.

        Args:
            text: a string or a list of strings; without it the images alone are prepared.
            images: one image, a list in reading order of all prompts, or one list per prompt.
            kwargs: see `processor_options`.

        Raises:
            TypeError: for an option that is unknown. ValueError: for what the processor does not do.
        """
        if videos is not None or audio is not None:
            raise ValueError("this processor prepares texts and images: leave out videos and audio")
        if is_image(text) or (text is None and is_text(images) and not is_image_place(images)):
            images, text = text, images
        if images is None and text is None:
            raise ValueError("there is nothing to prepare: give text, images, or both")
        options = self.options(kwargs)
        at = self.with_settings(**options.settings(self))
        if text is None:
            groups = groups_of(images, None, options.input_data_format)
            batch = stacked_tiles([at.tiles(group) for group in groups], options)
            return BatchFeature(batch, tensor_type=options.return_tensors)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(prompt, str) for prompt in texts):
            raise ValueError("text must be a string or a list of strings")
        counts = [prompt.count(self.image_token) for prompt in texts]
        encoded = []
        for prompt, group in zip(texts, groups_of(images, counts, options.input_data_format)):
            ids_and_labels = at.encoder.encode_prompt(prompt, at.image_blocks(sizes_of(group)))
            encoded.append(EncodedSample(*ids_and_labels, at.tiles(group)))
        return BatchFeature(at.pad(encoded, options), tensor_type=options.return_tensors)

    def options(self, given):
        """`CallOptions` of a call. What it does not say, the tokenizer's settings do, as in transformers."""
        return read_options(given, self.tokenizer.init_kwargs)

    def pad(self, encoded, options=DEFAULT, return_assistant_tokens_mask=False):
        """`EncodedSample`s → rows of equal length and tiles, see `batch_of`."""
        return batch_of(encoded, self.tokenizer, self.image_token_id, options, return_assistant_tokens_mask)

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """As in transformers, with the tokenizer's configuration in the form that 4.57 reads as well as 5.x."""
        super().save_pretrained(save_directory, push_to_hub=False)
        write_portable_tokenizer_config(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(**kwargs)
        return [str(path) for path in Path(save_directory).glob("*.json")]


def sizes_of(images):
    return [(image.height, image.width) for image in images]
