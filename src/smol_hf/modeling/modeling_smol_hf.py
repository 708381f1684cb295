"""The vision-language model: image encoder → connector → language model.

    tiles (tiles, 3, height, width)                       token ids (batch, sequence)
      │ vision_model                                        │ embeddings
    patches (tiles, patches, vision_hidden)                 │
      │ connector                                           │
    features (tiles, image_seq_len, hidden)  ── replace ──> embeddings at the image tokens
                                                            │ language_model
                                                          logits (batch, positions, vocabulary)

Every sibling module is imported here by name, although not all are used: transformers copies into a checkpoint only
what the entry module imports directly.
"""

import torch
from transformers.generation import AssistedCandidateGenerator, EarlyExitCandidateGenerator, GenerationMixin
from transformers.utils import can_return_tuple

from .attention import SmolHFAttention, refuse_missing_weights  # noqa: F401
from .compatibility import CACHE_NAME, one_cache, refuse_unknown
from .configuration_smol_hf import SmolHFConfig
from .configuration_smol_hf_text import SmolHFTextConfig  # noqa: F401
from .connector import SmolHFConnector
from .decoder import SmolHFDecoderLayer  # noqa: F401
from .feed_forward import SmolHFFeedForward  # noqa: F401
from .image_embedding import ImageEmbeddingMixin
from .label_loss import positions_to_keep
from .language_model import build_language_model
from .masks import causal_mask  # noqa: F401
from .modeling_smol_hf_text import loss_at
from .normalization import RMSNorm  # noqa: F401
from .outputs import SmolHFModelOutput, SmolHFOutput
from .pretrained_smol_hf import SmolHFPreTrainedModel
from .rotary import RotaryEmbedding  # noqa: F401
from .sub_configs import build_sub_config  # noqa: F401
from .vision import build_vision_model


class SmolHFModel(ImageEmbeddingMixin, SmolHFPreTrainedModel):
    """The three parts, and the hidden states of the language model that read an image."""

    config_class = SmolHFConfig
    auto_classes = {
        "AutoModel": "SmolHFModel",
        "AutoModelForImageTextToText": "SmolHFForConditionalGeneration",
        "AutoModelForVision2Seq": "SmolHFForConditionalGeneration",
        "AutoModelForMultimodalLM": "SmolHFForConditionalGeneration",
    }
    base_model_prefix = ""
    _tied_weights_keys = {}  # its own; PEFT looks for the language model's only where there is a mapping
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.vision_model = build_vision_model(config.vision_config)
        self.connector = SmolHFConnector(config)
        self.language_model = build_language_model(config.text_config)
        parts = (self.vision_model, self.language_model)
        self._no_split_modules = sorted({name for part in parts for name in getattr(part, "_no_split_modules", ())})
        self.post_init()

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

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        inputs_embeds=None,
        pixel_values=None,
        pixel_attention_mask=None,
        past_key_values=None,
        output_attentions=None,
        output_hidden_states=None,
        cache=None,
        **kwargs,
    ):
        """Hidden states of the language model. `kwargs` are arguments of its decoder or of the attention kernel."""
        decoder = self.get_decoder()
        refuse_unknown(kwargs, self, decoder)
        cache = one_cache(cache, past_key_values)
        inputs_embeds, image_features = self.embed(input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache)
        keep = self.what_to_keep(output_attentions, output_hidden_states)
        outputs = decoder(
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **keep,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        self.check_kept(outputs, keep)
        return SmolHFModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            image_hidden_states=image_features,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    def what_to_keep(self, output_attentions, output_hidden_states):
        """The two switches of the language model, as asked for in this call or else in the configuration."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}

    def check_kept(self, outputs, keep):
        if keep["output_attentions"]:
            refuse_missing_weights((outputs.get("attentions") or [None])[0], self.language_model.config)


class SmolHFForConditionalGeneration(SmolHFModel, GenerationMixin):
    """The model that answers: text and images in, next-token logits (and the loss) out."""

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        pixel_values=None,
        pixel_attention_mask=None,
        labels=None,
        use_cache=None,
        logits_to_keep=None,
        num_items_in_batch=None,
        output_attentions=None,
        output_hidden_states=None,
        cache=None,
        **kwargs,
    ):
        """Next-token logits, and the loss when `labels` (batch, sequence) are given (-100 = no label).

        Args:
            pixel_values, pixel_attention_mask: see `get_image_features`.
            logits_to_keep: where logits are made. None: everywhere, but in training with labels only at the
                positions that predict one. 0: everywhere. n: the last n. A 1-D tensor: these positions.
            num_items_in_batch: see `label_loss`.
            cache, past_key_values: two names of one argument.
            kwargs: arguments of the language model or of the attention kernel.

        Raises:
            TypeError: for a keyword that neither knows.
            ValueError: when image tokens and image features differ in number, or there are no images at all for them.
        """
        refuse_unknown(kwargs, self, self.language_model)
        cache = one_cache(cache, past_key_values)
        if labels is not None:
            use_cache = bool(use_cache)  # off unless asked for: a cache would hide where packed samples begin
        logits_to_keep = positions_to_keep(logits_to_keep, labels, self.training)
        inputs_embeds, image_features = self.embed(input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache)
        keep = self.what_to_keep(output_attentions, output_hidden_states)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **keep,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        self.check_kept(outputs, keep)
        loss = losses = None
        if labels is not None:
            loss, losses = loss_at(outputs.logits, labels, logits_to_keep, num_items_in_batch)
        return SmolHFOutput(
            loss=loss,
            logits=outputs.logits,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            image_hidden_states=image_features,
            token_losses=losses,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

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
        """Whether ids that come after a cache begin another turn with images. A single id is an answer's."""
        return input_ids.shape[1] > 1 and bool((input_ids == self.config.image_token_id).any())

    def _expand_inputs_for_generation(self, expand_size=1, input_ids=None, **inputs):
        """Each row as often as there are beams. Tiles that are flat belong to rows: they are repeated row by row."""
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
