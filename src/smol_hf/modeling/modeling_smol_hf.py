"""The vision-language model: image encoder → connector → language model.

    tiles (tiles, 3, height, width)                       token ids (batch, sequence)
      │ vision_model                                        │ embeddings
    patches (tiles, patches, vision_hidden)                 │
      │ connector                                           │
    features (tiles, image_seq_len, hidden)  ── replace ──> embeddings at the image tokens
                                                            │ language_model
                                                          logits (batch, positions, vocabulary)

Images and text become one sequence, which the language model reads like any other.
"""

from transformers.utils import can_return_tuple

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
    """The three parts, and the hidden states of the language model that reads an image."""

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
        self.connector = build_connector(config)
        self.language_model = build_language_model(config.text_config)
        parts = (self.vision_model, self.language_model)
        self._no_split_modules = sorted({name for part in parts for name in getattr(part, "_no_split_modules", ())})
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids=None, inputs_embeds=None, pixel_values=None, pixel_attention_mask=None, past_key_values=None,
        output_attentions=None, output_hidden_states=None, cache=None, **kwargs,
    ):  # fmt: skip
        """Hidden states of the language model. `kwargs` are arguments of its decoder or of the attention kernel."""
        decoder = self.get_decoder()
        refuse_unknown(kwargs, self, decoder)
        cache = one_cache(cache, past_key_values)
        inputs_embeds, image_features = self.embed(input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache)
        keep = self.what_to_keep(output_attentions, output_hidden_states)
        outputs = decoder(inputs_embeds=inputs_embeds, return_dict=True, **keep, **{CACHE_NAME: cache}, **kwargs)
        self.check_kept(outputs, keep)
        return SmolHFModelOutput(
            last_hidden_state=outputs.last_hidden_state, image_hidden_states=image_features,
            hidden_states=outputs.get("hidden_states"), attentions=outputs.get("attentions"),
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )  # fmt: skip


class SmolHFForConditionalGeneration(SmolHFModel, ImageGenerationMixin):
    """The model that answers: text and images in, next-token logits (and the loss) out."""

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        pixel_values=None, pixel_attention_mask=None, labels=None, use_cache=None, logits_to_keep=None,
        num_items_in_batch=None, output_attentions=None, output_hidden_states=None, cache=None, **kwargs,
    ):  # fmt: skip
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
from .modeling_smol_hf_text import SmolHFForCausalLM  # noqa: E402, F401
from .rotary import RotaryEmbedding  # noqa: E402, F401
from .sub_configs import build_sub_config  # noqa: E402, F401
