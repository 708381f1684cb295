"""What transformers asks of a vision-language model besides its mathematics: getters, hooks, and image generation.

None of this is needed to understand the model.
"""

import torch
from transformers.generation import AssistedCandidateGenerator, EarlyExitCandidateGenerator, GenerationMixin

from .attention import refuse_missing_weights
from .compatibility import CACHE_NAME, one_cache


class LanguageModelAccess:
    """For a model with `vision_model` and `language_model`: transformers and PEFT find the parts that they change."""

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value):
        self.language_model.set_output_embeddings(value)

    def get_decoder(self):
        return self.language_model.get_decoder()

    def enable_input_require_grads(self):
        """For adapters in a frozen model: reentrant checkpointing passes no gradient where none goes in.

        The encoder's patches get one only while something in it learns: else its whole backward pass would run in
        every step, for nothing.
        """

        def of_words(embeddings, inputs, output):
            output.requires_grad_(True)

        def of_patches(embeddings, inputs, output):
            if any(weight.requires_grad for weight in self.vision_model.parameters()):
                output.requires_grad_(True)

        self._require_grads_hooks = [
            self.get_input_embeddings().register_forward_hook(of_words),
            self.vision_model.embeddings.register_forward_hook(of_patches),
        ]

    def disable_input_require_grads(self):
        for hook in self.__dict__.pop("_require_grads_hooks", []):
            hook.remove()

    def check_kept(self, outputs, keep):
        """Raise ValueError if attention weights were asked for and the language model returned none."""
        if keep["output_attentions"]:
            refuse_missing_weights((outputs.get("attentions") or [None])[0], self.language_model.config)


class ImageGenerationMixin(GenerationMixin):
    """`generate` for prompts with images."""

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, pixel_values=None, inputs_embeds=None, cache=None, **kwargs
    ):
        """Images are read with the tokens that show them; afterwards they are in the cache."""
        cache = one_cache(cache, past_key_values)
        inputs = super().prepare_inputs_for_generation(
            input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **{CACHE_NAME: cache}, **kwargs
        )
        if cache is None or cache.get_seq_length() == 0:
            inputs["pixel_values"] = pixel_values  # transformers 5 drops them where the model assists another
        elif inputs.get("pixel_values") is not None and not self.shows_images(inputs["input_ids"]):
            inputs["pixel_values"] = None
        return inputs

    def shows_images(self, input_ids):
        """Whether ids that come after a cache begin another turn with images. A single id belongs to an answer."""
        return input_ids.shape[1] > 1 and bool((input_ids == self.config.image_token_id).any())

    def _expand_inputs_for_generation(self, expand_size=1, input_ids=None, **inputs):
        """Repeat each row for its beams. Flat tiles belong to rows, so they are repeated row by row."""
        tiles = inputs.get("pixel_values")
        flat = expand_size > 1 and tiles is not None and tiles.dim() == 4
        if flat:
            ids = input_ids if inputs.get("inputs_embeds") is None else None
            tokens = self.image_places(ids, inputs.get("inputs_embeds")).sum(dim=1)
            rows = inputs.pop("pixel_values").split((tokens // self.config.image_seq_len).tolist())
        input_ids, inputs = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **inputs
        )
        if flat:
            inputs["pixel_values"] = torch.cat([row for row in rows for _ in range(expand_size)])
        return input_ids, inputs

    def _get_candidate_generator(self, generation_config, **arguments):
        if generation_config.assistant_early_exit is not None:
            own = {
                name: arguments[name] for name in ("input_ids", "inputs_tensor", "logits_processor", "model_kwargs")
            }
            return FirstLayers(assistant_model=self, generation_config=generation_config, **own)
        return super()._get_candidate_generator(generation_config=generation_config, **arguments)


class FirstLayers(EarlyExitCandidateGenerator):
    """Draft with the first layers of the language model; transformers' class looks for them in the whole model."""

    def get_candidates(self, input_ids, **kwargs):
        config = self.assistant_model.get_decoder().config
        layers, config.num_hidden_layers = config.num_hidden_layers, self.assistant_early_exit
        try:
            return AssistedCandidateGenerator.get_candidates(self, input_ids)
        finally:
            config.num_hidden_layers = layers
