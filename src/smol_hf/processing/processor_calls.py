"""The methods by which transformers' pipelines, trainers and users call a processor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from .batching import DEFAULT, EncodedSample, batch_of, sizes_of, stacked_tiles
from .chat_encoding import ChatEncoder
from .chat_rendering import ChatRenderer
from .image_input import groups_of, images_of, is_image, is_image_place, is_text
from .plain_tokenizer import write_portable_tokenizer_config
from .processor_options import options_and_variables, read_options


class Cache(dict):
    """Values that are computed once. A copy of the processor begins with an empty cache."""

    def __deepcopy__(self, memo):
        return Cache()


class ProcessorCalls(ProcessorMixin):
    """The calls of a processor that defines `encoder`, `image_blocks`, `tiles` and `with_settings`."""

    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    image_token: str
    image_token_id: int
    renderer: Callable[..., ChatRenderer]
    with_settings: Callable[..., Any]

    @property
    def image_processor(self):
        """The processor itself, because transformers' pipelines make batches of images with it."""
        return self

    def __getstate__(self):
        # A data loader's worker receives the processor without its encoder, and builds it again.
        return {**self.__dict__, "_cache": Cache()}

    def apply_chat_template(
        self, conversation, chat_template=None, tools=None, documents=None, add_generation_prompt=False,
        continue_final_message=False, return_assistant_tokens_mask=False, tokenize=False, return_tensors=None,
        return_dict=False, processor_kwargs=None, sanitize_control_tokens=True, **kwargs,
    ):  # fmt: skip
        """Do the same as in transformers. With `tokenize=True`, texts never become special tokens.

        Images are given in the parts: `{"type": "image", "image": PIL image, array, base64, path or URL}` (or as
        `path`, `url`, `base64`), or OpenAI's `{"type": "image_url", "image_url": {"url": …}}`.

        Args:
            processor_kwargs: options of `__call__`, which may be given by name too.
            kwargs: further variables of the chat template.

        Raises:
            TypeError: for a name that neither the processor nor the template knows.
            ValueError: for a conversation without messages.
        """
        if not len(conversation):
            raise ValueError("the conversation is empty: give a list of messages")
        if add_generation_prompt and continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message exclude each other: choose one")
        renderer = self.renderer(chat_template)
        options, variables = options_and_variables(kwargs, renderer.template)
        options.update(processor_kwargs or {})
        given = {"tools": tools, "documents": documents}
        variables = {**{name: value for name, value in given.items() if value is not None}, **variables}
        if variables:
            renderer = ChatRenderer(self.encoder, renderer.template, variables)
        batched = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        conversations = [getattr(each, "messages", each) for each in (conversation if batched else [conversation])]
        if not tokenize:
            ends = add_generation_prompt, continue_final_message
            texts = [renderer.text(each, *ends)[0] for each in conversations]
            return texts if batched else texts[0]
        if return_tensors is not None:
            options["return_tensors"] = return_tensors
        options = self.options(options)
        at = self.with_settings(**options.settings(self))
        encoded = []
        for messages in conversations:
            images = images_of(messages, options.input_data_format)
            input_ids, labels = renderer.encode(
                messages, at.image_blocks(sizes_of(images)), add_generation_prompt, continue_final_message,
                labelled=return_assistant_tokens_mask,
            )  # fmt: skip
            encoded.append(EncodedSample(input_ids, labels, at.tiles(images)))
        batch = at.pad(encoded, options, return_assistant_tokens_mask)
        if not batched and options.return_tensors is None:
            batch = {name: values[0] for name, values in batch.items()}
        batch = BatchFeature(batch, tensor_type=options.return_tensors)
        return batch if return_dict else batch["input_ids"]

    def __call__(self, images: Any = None, text: Any = None, videos=None, audio=None, **kwargs):
        """Encode prompts of `apply_chat_template(…, tokenize=False)`, with their special tokens, and their images.

        Args:
            text: a string or a list of strings; None: only images are prepared.
            images: one image, a list in reading order of all prompts, or one list per prompt.
            kwargs: see `processor_options`.

        Raises:
            TypeError: for an unknown option.
            ValueError: for an unsupported value.
        """
        if videos is not None or audio is not None:
            raise ValueError("this processor prepares texts and images: leave out videos and audio")
        if is_image(text) or (text is None and is_text(images) and not is_image_place(images)):
            images, text = text, images
        if images is None and text is None:
            raise ValueError("neither text nor images were given: give one or both")
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
            input_ids, labels = at.encoder.encode_prompt(prompt, at.image_blocks(sizes_of(group)))
            encoded.append(EncodedSample(input_ids, labels, at.tiles(group)))
        return BatchFeature(at.pad(encoded, options), tensor_type=options.return_tensors)

    def options(self, given):
        """Read the `CallOptions` of a call. The tokenizer's settings are the defaults, as in transformers."""
        return read_options(given, self.tokenizer.init_kwargs)

    def pad(self, encoded, options=DEFAULT, return_assistant_tokens_mask=False):
        """Pad `EncodedSample`s to rows of equal length, see `batch_of`."""
        return batch_of(encoded, self.tokenizer, self.image_token_id, options, return_assistant_tokens_mask)

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Save as transformers does, with a tokenizer configuration that transformers 4.57 and 5.x read."""
        super().save_pretrained(save_directory, push_to_hub=False)
        write_portable_tokenizer_config(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(**kwargs)
        return [str(path) for path in Path(save_directory).glob("*.json")]
