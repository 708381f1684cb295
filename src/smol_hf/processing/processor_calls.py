"""The methods by which transformers' pipelines, trainers and users call a processor."""

from pathlib import Path
from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import MultiModalData

from .batching import DEFAULT, EncodedSample, batch_of, sizes_of, stacked_tiles
from .chat_rendering import ChatRenderer
from .chat_turns import conversations_of, expand_videos
from .image_input import is_image, is_image_place, is_text
from .media_input import MediaReader, media_alone, media_of, media_of_prompts
from .plain_tokenizer import write_portable_tokenizer_config
from .processor_encoding import ProcessorEncoding
from .processor_options import mapping_of, options_and_variables, read_options
from .video_sampling import VideoSampling
from .video_text import expand_prompt, show_videos


class ProcessorCalls(ProcessorEncoding):
    """The calls of a processor."""

    video_sampling: VideoSampling

    @property
    def image_processor(self):
        """The processor itself, because transformers' pipelines make batches of images with it."""
        return self

    def apply_chat_template(
        self, conversation, chat_template=None, tools=None, documents=None, add_generation_prompt=False,
        continue_final_message=False, return_assistant_tokens_mask=False, tokenize=False, return_tensors=None,
        return_dict=False, processor_kwargs=None, sanitize_control_tokens=True, **kwargs,
    ):  # fmt: skip
        """Do the same as in transformers. With `tokenize=True`, texts never become special tokens.

        Images are given in the parts: `{"type": "image", "image": PIL image, array, base64, path or URL}` (or as
        `path`, `url`, `base64`), or OpenAI's `{"type": "image_url", "image_url": {"url": …}}`. Videos are given as
        `{"type": "video", "video": …}` (or as `path`, `url`), see `video_input`.

        Args:
            processor_kwargs: options of `__call__`, which may be given by name too.
            kwargs: further variables of the chat template.

        Raises:
            TypeError: for a name that neither the processor nor the template knows.
            ValueError: for a conversation without messages.
        """
        conversations, batched = conversations_of(conversation)
        if add_generation_prompt and continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message exclude each other: choose one")
        renderer = self.renderer(chat_template)
        options, variables = options_and_variables(kwargs, renderer.template)
        options.update(mapping_of("processor_kwargs", processor_kwargs))
        given = {"tools": tools, "documents": documents}
        variables = {**{name: value for name, value in given.items() if value is not None}, **variables}
        if variables:
            renderer = ChatRenderer(self.encoder, renderer.template, variables)
        if not tokenize:
            ends = add_generation_prompt, continue_final_message
            texts = [show_videos(renderer, each, self.video_style, *ends) for each in conversations]
            return texts if batched else texts[0]
        if return_tensors is not None:
            options["return_tensors"] = return_tensors
        options = self.options(options)
        at = self.with_settings(**options.settings(self))
        reader, encoded = MediaReader(at.video_sampling, options), []
        for messages, media in zip(conversations, media_of(conversations, reader)):
            messages, sizes = expand_videos(messages, sizes_of(media), self.video_style)
            input_ids, labels = renderer.encode(
                messages, at.image_blocks(sizes), add_generation_prompt, continue_final_message,
                labelled=return_assistant_tokens_mask,
            )  # fmt: skip
            encoded.append(EncodedSample(input_ids, labels, at.tiles(media)))
        batch = at.pad(encoded, options, return_assistant_tokens_mask)
        if not batched and options.return_tensors is None:
            batch = {name: values[0] for name, values in batch.items()}
        batch = BatchFeature(batch, tensor_type=options.return_tensors)
        return batch if return_dict else batch["input_ids"]

    def __call__(self, images: Any = None, text: Any = None, videos=None, audio=None, **kwargs):
        """Encode prompts of `apply_chat_template(…, tokenize=False)`, with their special tokens, and their media.

        Args:
            text: a string or a list of strings; None: only images or videos are prepared.
            images: one image, a list in reading order of all prompts, or one list per prompt.
            videos: one video or lists of them, each in a form of `video_input`. The text shows a video as `<video>`,
                which stays text without `videos`.
            kwargs: see `processor_options`.

        Raises:
            TypeError: for an unknown option.
            ValueError: for an unsupported value.
        """
        if audio is not None:
            raise ValueError("this processor prepares texts, images and videos: leave out audio")
        if is_image(text) or (text is None and is_text(images) and not is_image_place(images)):
            images, text = text, images
        if images is None and text is None and videos is None:
            raise ValueError("neither text nor images nor videos were given: give one or more")
        options = self.options(kwargs)
        at = self.with_settings(**options.settings(self))
        reader = MediaReader(at.video_sampling, options)
        if text is None:
            batch = stacked_tiles([at.tiles(media) for media in media_alone(images, videos, reader)], options)
            return BatchFeature(batch, tensor_type=options.return_tensors)
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(prompt, str) for prompt in texts):
            raise ValueError("text must be a string or a list of strings")
        encoded = []
        for prompt, media in zip(texts, media_of_prompts(texts, images, videos, self.image_token, reader)):
            prompt, sizes = expand_prompt(prompt, sizes_of(media), self.video_style, self.image_token)
            input_ids, labels = at.encoder.encode_prompt(prompt, at.image_blocks(sizes))
            encoded.append(EncodedSample(input_ids, labels, at.tiles(media)))
        return BatchFeature(at.pad(encoded, options), tensor_type=options.return_tensors)

    def options(self, given):
        """Read the `CallOptions` of a call. The tokenizer's settings are the defaults, as in transformers."""
        return read_options(given, self.tokenizer.init_kwargs)

    def pad(self, encoded, options=DEFAULT, return_assistant_tokens_mask=False):
        """Pad `EncodedSample`s to rows of equal length, see `batch_of`."""
        return batch_of(encoded, self.tokenizer, self.image_token_id, options, return_assistant_tokens_mask)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        """Count the tokens and tiles of images by their sizes, as inference engines ask transformers' processors.

        Args:
            image_sizes: (height, width) of each image.
            kwargs: options of `__call__`.
        """
        at = self.with_settings(**self.options(kwargs).settings(self))
        if image_sizes is None:
            return MultiModalData()
        grids = [at.tiler.grid(*size) for size in image_sizes]
        return MultiModalData(
            num_image_tokens=[len(at.image_block_ids(*size)) for size in image_sizes],
            num_image_patches=[rows * columns + 1 for rows, columns in grids],  # with the overview
        )

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Save as transformers does, with a tokenizer configuration that transformers 4.57 and 5.x read."""
        super().save_pretrained(save_directory, push_to_hub=False)
        write_portable_tokenizer_config(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(**kwargs)
        return [str(path) for path in Path(save_directory).glob("*.json")]
