"""The vision-language model: image encoder → connector → language model.

    tiles (tiles, 3, height, width)                       token ids (batch, sequence)
      │ vision_model                                        │ embeddings
    patches (tiles, patches, vision_hidden)                 │
      │ connector                                           │
    features (tiles, image_seq_len, hidden)  ── replace ──> embeddings at the image tokens
                                                            │ language_model
                                                          logits (batch, positions, vocabulary)

Images and text become one sequence of embeddings. The language model treats both alike.
"""

from transformers.utils.generic import can_return_tuple

from .compatibility import CACHE_NAME, SmolHFModelOutput, SmolHFOutput, one_cache, refuse_unknown
from .configuration_smol_hf import SmolHFConfig
from .connector import build_connector
from .image_embedding import ImageEmbeddingMixin
from .label_loss import loss_at, positions_to_keep
from .language_model import build_language_model
from .plumbing import ImageGenerationMixin, LanguageModelAccess
from .pretrained_smol_hf import SmolHFPreTrainedModel
from .vision import build_vision_model


class SmolHFModel(ImageEmbeddingMixin, LanguageModelAccess, SmolHFPreTrainedModel):
    """The three parts without the head: token ids and tiles → hidden states of the language model."""

    config_class = SmolHFConfig
    auto_classes = {
        "AutoModel": "SmolHFModel",
        "AutoModelForImageTextToText": "SmolHFForConditionalGeneration",
        "AutoModelForVision2Seq": "SmolHFForConditionalGeneration",
        "AutoModelForMultimodalLM": "SmolHFForConditionalGeneration",
    }
    base_model_prefix = ""
    _tied_weights_keys = {}  # none of its own; PEFT looks for the language model's only if this is a mapping
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.vision_model = build_vision_model(config.vision_config)
        self.connector = build_connector(config)
        self.language_model = build_language_model(config.text_config)
        self.post_init()
        parts = (self.vision_model, self.language_model)
        named = {name for part in parts for name in getattr(part, "_no_split_modules", ())}
        # A class that the model does not hold, such as SigLIP's text layers, would be an error of FSDP.
        self._no_split_modules = sorted(named & {type(module).__name__ for module in self.modules()})

    @can_return_tuple
    def forward(
        self, input_ids=None, inputs_embeds=None, pixel_values=None, pixel_attention_mask=None, past_key_values=None,
        output_attentions=None, output_hidden_states=None, cache=None, image_positions=None, patch_features=None,
        **kwargs,
    ):  # fmt: skip
        """Compute the hidden states of the language model, (batch, sequence, hidden).

        Arguments are those of `SmolHFForConditionalGeneration`; `kwargs` are for the decoder or the attention kernel.
        """
        decoder = self.get_decoder()
        refuse_unknown(kwargs, self, decoder)
        cache = one_cache(cache, past_key_values)
        inputs_embeds, image_features = self.embed(
            input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache, image_positions, patch_features
        )
        keep = self.outputs_to_keep(output_attentions, output_hidden_states)
        outputs = decoder(inputs_embeds=inputs_embeds, return_dict=True, **keep, **{CACHE_NAME: cache}, **kwargs)
        self.check_kept(outputs, keep)
        return SmolHFModelOutput(
            last_hidden_state=outputs.last_hidden_state, image_hidden_states=image_features,
            hidden_states=outputs.get("hidden_states"), attentions=outputs.get("attentions"),
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )  # fmt: skip


class SmolHFForConditionalGeneration(SmolHFModel, ImageGenerationMixin):
    """The model with its head: token ids and tiles → next-token logits, and the loss."""

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        pixel_values=None, pixel_attention_mask=None, labels=None, use_cache=None, logits_to_keep=None,
        num_items_in_batch=None, output_attentions=None, output_hidden_states=None, cache=None, image_positions=None,
        patch_features=None,
        **kwargs,
    ):  # fmt: skip
        """Compute next-token logits, and the loss if `labels` (batch, sequence) are given (-100 = no label).

        Args:
            pixel_values, pixel_attention_mask: see `get_image_features`.
            patch_features: (tiles, patches, vision_hidden) of `encode_patches`, instead of pixel_values.
            logits_to_keep: the positions of the logits. None: all, but in training with labels only those that
                predict a label. 0: all. n: the last n. A 1-D tensor: these positions.
            num_items_in_batch: see `label_loss`.
            cache, past_key_values: two names of one argument.
            image_positions: see `embed`.
            kwargs: arguments of the language model or of the attention kernel.

        Raises:
            TypeError: for an unknown keyword.
            ValueError: if the numbers of image tokens and image features differ.
        """
        refuse_unknown(kwargs, self, self.language_model)
        cache = one_cache(cache, past_key_values)
        if labels is not None:
            use_cache = bool(use_cache)  # off by default: a cache would hide the beginnings of packed samples
        logits_to_keep = positions_to_keep(logits_to_keep, labels, self.training)
        inputs_embeds, image_features = self.embed(
            input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache, image_positions, patch_features
        )
        keep = self.outputs_to_keep(output_attentions, output_hidden_states)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            use_cache=use_cache, logits_to_keep=logits_to_keep, return_dict=True,
            **keep, **{CACHE_NAME: cache}, **kwargs,
        )  # fmt: skip
        self.check_kept(outputs, keep)
        loss = losses = None
        if labels is not None:
            loss, losses = loss_at(outputs.logits, labels, logits_to_keep, num_items_in_batch)
        return SmolHFOutput(
            loss=loss, logits=outputs.logits, token_losses=losses, image_hidden_states=image_features,
            hidden_states=outputs.get("hidden_states"), attentions=outputs.get("attentions"),
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )  # fmt: skip


# transformers 4.57 copies only the files that this file names into its cache, not the files that those name.
from .attention import SmolHFAttention  # noqa: E402, F401
from .configuration_smol_hf_text import SmolHFTextConfig  # noqa: E402, F401
from .decoder import SmolHFDecoderLayer  # noqa: E402, F401
from .mask import causal_mask  # noqa: E402, F401
from .modeling_smol_hf_text import SmolHFForCausalLM  # noqa: E402, F401
from .rotary import RotaryEmbedding  # noqa: E402, F401
from .sub_configs import build_sub_config  # noqa: E402, F401
from .tiles import flat_tiles  # noqa: E402, F401
