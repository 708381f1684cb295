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

from dataclasses import dataclass

import torch
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .attention import SmolHFAttention  # noqa: F401
from .compatibility import CACHE_NAME, NewCacheName, one_cache, refuse_unknown
from .configuration_smol_hf import SmolHFConfig
from .configuration_smol_hf_text import SmolHFTextConfig  # noqa: F401
from .connector import SmolHFConnector
from .decoder import SmolHFDecoderLayer  # noqa: F401
from .feed_forward import SmolHFFeedForward  # noqa: F401
from .label_loss import labelled_positions
from .language_model import build_language_model
from .masks import causal_mask  # noqa: F401
from .modeling_smol_hf_text import loss_at
from .normalization import RMSNorm  # noqa: F401
from .pretrained_smol_hf import SmolHFPreTrainedModel
from .rotary import RotaryEmbedding  # noqa: F401
from .sub_configs import build_sub_config  # noqa: F401
from .vision import build_vision_model, encode_tiles, normalize_tiles


@dataclass
class SmolHFModelOutput(NewCacheName, BaseModelOutputWithPast):
    """`image_hidden_states` are the image features, (tiles, image_seq_len, hidden)."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class SmolHFOutput(NewCacheName, CausalLMOutputWithPast):
    """`logits` (batch, positions, vocabulary) belong to the positions `logits_to_keep` (None: see `forward`),
    `token_losses` (batch, positions) to the labels that they predict, 0 where there is none."""

    image_hidden_states: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None


class SmolHFModel(SmolHFPreTrainedModel):
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

    def get_image_features(self, pixel_values, pixel_attention_mask=None, **kwargs):
        """Tiles → features in the language model's space, (tiles, image_seq_len, hidden).

        Args:
            pixel_values: flat (tiles, 3, height, width) in the order of the image tokens, or a processor's padded
                (batch, tiles, 3, height, width). uint8, or floats already normalised.
            pixel_attention_mask: (batch, tiles, height, width) or (batch, tiles, 1, 1), zero for padding tiles.
        """
        if pixel_values.dim() == 5:
            pixel_values = pixel_values.flatten(0, 1)
            if pixel_attention_mask is not None:
                real = pixel_attention_mask[:, :, 0, 0].flatten().bool()
                if torch.compiler.is_compiling():
                    # Static shapes: real tiles first, in order; the scatter below never reads the tail.
                    pixel_values = pixel_values[torch.argsort((~real).int(), stable=True)]
                else:
                    pixel_values = pixel_values[real]
        pixel_values = normalize_tiles(pixel_values, self.config, self.dtype)
        return self.connector(encode_tiles(self.vision_model, pixel_values, self.config))

    def replace_image_tokens(self, input_ids, inputs_embeds, image_features):
        """The k-th image token's embedding becomes the k-th image feature, in reading order."""
        is_image = (input_ids == self.config.image_token_id).unsqueeze(-1)  # (batch, sequence, 1)
        if not torch.compiler.is_compiling():
            tokens, features = int(is_image.sum()), image_features.shape[:-1].numel()
            if tokens != features:
                raise ValueError(
                    f"{tokens} image tokens but {features} image features ({image_features.shape[0]} tiles of "
                    f"{image_features.shape[1]}): each tile needs its own image tokens in the text"
                )
        image_features = image_features.to(inputs_embeds.device, inputs_embeds.dtype)
        return inputs_embeds.masked_scatter(is_image.expand_as(inputs_embeds), image_features)

    def refuse_image_tokens(self, input_ids, cache):
        """A prompt with places for images and no image would be read as noise, without a word."""
        if cache is not None and cache.get_seq_length() > 0:
            return  # the images of the prompt are in the cache
        tokens = int((input_ids == self.config.image_token_id).sum())
        if tokens:
            raise ValueError(f"{tokens} image tokens but no pixel_values: pass the processor's pixel_values too")

    def embed(self, input_ids, inputs_embeds=None, pixel_values=None, pixel_attention_mask=None, cache=None):
        """Token embeddings with the images in them, (batch, sequence, hidden), and the image features."""
        if inputs_embeds is None:
            if pixel_values is None and not torch.compiler.is_compiling():
                self.refuse_image_tokens(input_ids, cache)
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            if input_ids is None:
                raise ValueError("pixel_values need input_ids: they say where the images stand")
            image_features = self.get_image_features(pixel_values, pixel_attention_mask)
            return self.replace_image_tokens(input_ids, inputs_embeds, image_features), image_features
        if self.training and any(weight.requires_grad for weight in self.vision_path_parameters()):
            # Other processes may hold images in this step. All must run the same modules, or gradient exchange
            # (DDP, FSDP) waits forever: look at one grey tile, and let it count for nothing.
            side = self.config.image_side
            blank = torch.full((1, 3, side, side), 128, dtype=torch.uint8, device=inputs_embeds.device)
            nothing = self.get_image_features(blank).sum() * 0
            inputs_embeds = inputs_embeds + nothing.to(inputs_embeds.device, inputs_embeds.dtype)
        return inputs_embeds, None

    def vision_path_parameters(self):
        yield from self.vision_model.parameters()
        yield from self.connector.parameters()

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
        outputs = decoder(
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **self.what_to_keep(output_attentions, output_hidden_states),
            **{CACHE_NAME: cache},
            **kwargs,
        )
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
            logits_to_keep: where logits are made. None: everywhere, or with labels only at the positions that
                predict one. 0: everywhere. n: the last n. A 1-D tensor: these positions.
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
            logits_to_keep = labelled_positions(labels) if logits_to_keep is None else logits_to_keep
        inputs_embeds, image_features = self.embed(input_ids, inputs_embeds, pixel_values, pixel_attention_mask, cache)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=0 if logits_to_keep is None else logits_to_keep,
            return_dict=True,
            **self.what_to_keep(output_attentions, output_hidden_states),
            **{CACHE_NAME: cache},
            **kwargs,
        )
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
        """Images are read with the prompt; afterwards they are in the cache."""
        cache = one_cache(cache, past_key_values)
        inputs = super().prepare_inputs_for_generation(
            input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **{CACHE_NAME: cache}, **kwargs
        )
        if cache is not None and cache.get_seq_length() > 0:
            inputs["pixel_values"] = None  # transformers 5 does this by itself, 4.57 does not
        return inputs
