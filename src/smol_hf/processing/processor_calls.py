"""The calls that transformers' pipelines, trainers and users make of a processor, with their many options."""

from pathlib import Path

from transformers import BatchFeature

from .batching import DEFAULT, EncodedSample, batch_of, sizes_of, stacked_tiles
from .chat_rendering import ChatRenderer, renderer_of
from .image_input import groups_of, images_of, is_image, is_image_place, is_text
from .portable_tokenizer import write_portable_tokenizer_config
from .processor_options import options_and_variables, read_options


class Cache(dict):
    """Values that are computed once; copies of the processor begin with an empty cache."""

    def __deepcopy__(self, memo):
        return Cache()


class ProcessorCalls:
    """For a processor with `encoder`, `renderer`, `image_blocks`, `tiles` and `with_settings`."""

    @property
    def image_processor(self):
        """The processor itself: pipelines of transformers ask for it when they make batches of images."""
        return self

    def renderer(self, chat_template=None, variables=None):
        """The renderer of a chat template: given as text, or by name where the processor has several templates.

        The default is the processor's own template.
        """
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        template = named.get(chat_template or "default", chat_template)
        if template is None:
            raise ValueError(f"there are several chat templates, none of them 'default': name one of {sorted(named)}")
        return ChatRenderer(self.encoder, template, variables) if variables else renderer_of(self.encoder, template)

    def __getstate__(self):
        # The encoder is rebuilt where it is needed: a data loader's worker gets the processor without it.
        return {**self.__dict__, "_cache": Cache()}

    def apply_chat_template(
        self, conversation, chat_template=None, tools=None, documents=None, add_generation_prompt=False,
        continue_final_message=False, return_assistant_tokens_mask=False, tokenize=False, return_tensors=None,
        return_dict=False, processor_kwargs=None, sanitize_control_tokens=True, **kwargs,
    ):  # fmt: skip
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
        """Save as transformers does, with the tokenizer's configuration in a form that 4.57 and 5.x read."""
        super().save_pretrained(save_directory, push_to_hub=False)
        write_portable_tokenizer_config(Path(save_directory))
        if push_to_hub:
            self.push_to_hub(**kwargs)
        return [str(path) for path in Path(save_directory).glob("*.json")]
