"""Methods that transformers requires of a vision-language model: getters, hooks, and generation from images.

You can understand the model without them.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.generation.candidate_generator import AssistedCandidateGenerator, EarlyExitCandidateGenerator

from .attention import refuse_missing_weights
from .compatibility import CACHE_NAME, one_cache
from .image_embedding import ImageEmbeddingMixin
from .pretrained_smol_hf import SmolHFGenerationMixin, SmolHFPreTrainedModel


class LanguageModelAccess(SmolHFPreTrainedModel):
    """Access to the parts of a model with `vision_model` and `language_model`, for transformers and PEFT."""

    vision_model: nn.Module
    language_model: PreTrainedModel

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
        """Make embeddings require gradients, which adapters in a frozen model need with reentrant checkpointing.

        The patch embeddings require them only while a weight of the encoder is trained. Otherwise the encoder's
        backward pass would run in every step without effect.
        """

        def of_tokens(embeddings, inputs, output):
            output.requires_grad_(True)

        def of_patches(embeddings, inputs, output):
            if any(weight.requires_grad for weight in self.vision_model.parameters()):
                output.requires_grad_(True)

        self._require_grads_hooks = [
            self.get_input_embeddings().register_forward_hook(of_tokens),
            self.vision_model.get_submodule("embeddings").register_forward_hook(of_patches),
        ]

    def disable_input_require_grads(self):
        for hook in self.__dict__.pop("_require_grads_hooks", []):
            hook.remove()

    def check_kept(self, outputs, keep):
        """Raise ValueError if attention weights were requested and the language model returned none."""
        if keep["output_attentions"]:
            refuse_missing_weights((outputs.get("attentions") or [None])[0], self.language_model.config)


class ImageGenerationMixin(ImageEmbeddingMixin, SmolHFGenerationMixin):
    """`generate` for prompts with images.

    GenerationMixin declares `self` by a protocol that transformers' own PreTrainedModel does not fulfil: hence the
    three exceptions for the type checker.
    """

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, pixel_values=None, inputs_embeds=None, cache=None, **kwargs
    ):
        """Pass images in the step that reads their tokens. Later steps find them in the cache."""
        cache = one_cache(cache, past_key_values)
        inputs = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **{CACHE_NAME: cache}, **kwargs
        )
        if cache is None or cache.get_seq_length() == 0:
            inputs["pixel_values"] = pixel_values  # transformers 5 drops them if the model assists another
        elif inputs.get("pixel_values") is not None and not self.shows_images(inputs["input_ids"]):
            inputs["pixel_values"] = None
        return inputs

    def shows_images(self, input_ids):
        """Tell if ids that follow a cache begin another turn with images. A single id belongs to an answer."""
        return input_ids.shape[1] > 1 and bool((input_ids == self.config.image_token_id).any())

    def _expand_inputs_for_generation(self, expand_size=1, input_ids=None, **inputs):
        """Repeat each row for its beams. Flat tiles belong to rows, so they are repeated row by row."""
        tiles = inputs.get("pixel_values")
        flat = expand_size > 1 and tiles is not None and tiles.dim() == 4
        if flat:
            ids = input_ids if inputs.get("inputs_embeds") is None else None
            tokens = self.image_places(ids, inputs.get("inputs_embeds")).sum(dim=1)
            rows = inputs.pop("pixel_values").split((tokens // self.config.image_seq_len).tolist())
        input_ids, inputs = super()._expand_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            expand_size=expand_size, input_ids=input_ids, **inputs
        )
        if flat:
            inputs["pixel_values"] = torch.cat([row for row in rows for _ in range(expand_size)])
        return input_ids, inputs

    def _get_candidate_generator(self, generation_config, **arguments):
        if generation_config.assistant_early_exit is not None:
            names = ("input_ids", "inputs_tensor", "logits_processor", "model_kwargs")
            own = {name: arguments[name] for name in names}
            return FirstLayers(assistant_model=self, generation_config=generation_config, **own)
        return super()._get_candidate_generator(  # pyright: ignore[reportAttributeAccessIssue]
            generation_config=generation_config, **arguments
        )


class FirstLayers(EarlyExitCandidateGenerator):
    """Drafts by the first layers of the language model. Transformers' class looks for layers in the outer model."""

    def get_candidates(self, input_ids, **kwargs):
        config = self.assistant_model.get_decoder().config
        layers, config.num_hidden_layers = config.num_hidden_layers, self.assistant_early_exit
        try:
            return AssistedCandidateGenerator.get_candidates(self, input_ids)
        finally:
            config.num_hidden_layers = layers
