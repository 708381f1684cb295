"""The base class of our models: initial weights, settings of a forward, and checkpoints that load without us."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.generation.utils import GenerationMixin

from .decoder import RMSNorm


class SmolHFPreTrainedModel(PreTrainedModel):
    """Settings and methods that every model of ours shares."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SmolHFDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    auto_classes = {}  # Auto class → class of this module that it should load from our checkpoints

    def _init_weights(self, module):
        """Draw weights from N(0, std²), set biases to 0 and norms to 1.

        Projections that write into the residual stream get std / sqrt(2·layers), as in GPT-2: each of the 2·layers
        writes adds its variance to the stream. Only functions of `torch.nn.init` are used here, since transformers 5
        prevents them from overwriting loaded weights.
        """
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if getattr(module, "writes_to_residual", False):
                std = std / math.sqrt(2 * self.config.get_text_config().num_hidden_layers)
            nn.init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, (RMSNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
        if getattr(module, "bias", None) is not None and isinstance(module, (nn.Linear, nn.LayerNorm)):
            nn.init.zeros_(module.bias)

    def outputs_to_keep(self, output_attentions, output_hidden_states):
        """Return both switches of a forward, from this call or else from the configuration."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}

    def cache_to_use(self, use_cache, cache):
        """Return the cache that a decoder reads and fills (or None), and whether to return it.

        Raises:
            ValueError: for a filled cache in training with gradient checkpointing.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError(
                    "gradient checkpointing cannot continue from a cache: call gradient_checkpointing_disable()"
                )
            return None, False  # a recomputed layer would append its keys to the cache a second time
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        return cache, use_cache

    def save_pretrained(self, save_directory, **kwargs):
        """Save as transformers does, and name every Auto class in `auto_map`, so that anyone can load the folder.

        Raises:
            ValueError: if a weight is not finite, since such a checkpoint cannot answer.
        """
        weights = kwargs.get("state_dict") or self.state_dict()
        broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
        if broken:
            hold = "weight holds" if len(broken) == 1 else "weights hold"
            raise ValueError(
                f"{len(broken)} {hold} NaN or infinity, first {broken[0]}: {save_directory} was not saved"
            )
        module = type(self).__module__.split(".")[-1]
        auto_map = {auto_class: f"{module}.{name}" for auto_class, name in self.auto_classes.items()}
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_map}
        super().save_pretrained(save_directory, **kwargs)


class SmolHFGenerationMixin(GenerationMixin):
    """`generate` with the tokenizers that it takes for stop strings: they are not arguments of a forward."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # `generate` asks for the signature of `forward` in each step. Inspecting takes time if a decorator hides it.
        # The innermost function stores it: a wrapper of a bound `forward` would copy an unbound one of its own.
        if inspect.isfunction(own := vars(cls).get("forward")):
            forward: Any = inspect.unwrap(own)
            if forward is not own:
                forward.__signature__ = inspect.signature(forward)

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, tokenizer=None, assistant_tokenizer=None, **kwargs
    ):  # fmt: skip
        return super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
