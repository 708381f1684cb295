"""Names that differ between releases of transformers and PyTorch, keywords that a forward accepts, and its outputs.

transformers 5.24 renamed `past_key_values` to `cache` in forward signatures, outputs and mask builders. Our forwards
accept both names, our outputs have both, and our code says `cache`.
"""

import inspect
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import __version__
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import ModelOutput

MASK_ARGUMENTS = inspect.signature(create_causal_mask).parameters
CACHE_NAME = "cache" if "cache" in MASK_ARGUMENTS else "past_key_values"  # the name that this transformers uses

varlen_attn: Any = None  # flash attention to samples of unequal length, on a GPU
if find_spec("torch.nn.attention.varlen"):
    from torch.nn.attention.varlen import varlen_attn
if varlen_attn and "enable_gqa" not in inspect.signature(varlen_attn).parameters:  # PyTorch 2.10
    varlen_attn = None

# transformers 5 returns an output object from `get_image_features`, 4.57 a tensor.
FEATURES_IN_OUTPUT = not __version__.startswith("4.")

# Keywords that attention kernels read by name. Every other keyword must be an argument of a forward. Otherwise a
# keyword that a new release introduces would be ignored, and the answers would be wrong without an error.
ATTENTION_KEYWORDS = {
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "kernel_options",
}  # fmt: skip
if "cache_position" in MASK_ARGUMENTS:  # transformers 4.57 passes it while generating
    ATTENTION_KEYWORDS.add("cache_position")


def one_cache(cache, past_key_values):
    """Return the cache, given by either of its two names. Raises ValueError if both are given."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument: pass only one")
    return past_key_values if cache is None else cache


def refuse_unknown(keywords, owner, reader=None):
    """Raise TypeError for a keyword that neither an attention kernel nor `reader.forward` reads by name.

    `owner` is the object whose forward was called, `reader` the model to which the keywords are passed on.
    """
    unknown = set(keywords) - ATTENTION_KEYWORDS
    if unknown and reader is not None:
        unknown -= forward_arguments(reader)
    if unknown:
        raise TypeError(f"{type(owner).__name__}.forward() got an unexpected keyword argument {min(unknown)!r}")


def forward_arguments(model):
    """Return the names that `model.forward` takes, without those that its `**kwargs` would swallow."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}


class NewCacheName(ModelOutput):
    """Base of our outputs: on transformers before 5.24, `cache` reads `past_key_values`.

    transformers 5.24 itself does the reverse.
    """

    if CACHE_NAME == "past_key_values":
        past_key_values: Any

        @property
        def cache(self):
            return self.past_key_values

        def __getitem__(self, key):
            return super().__getitem__(CACHE_NAME if key == "cache" else key)


# -- outputs of our forwards: those of transformers, with our fields and both names of the cache ----------------------


@dataclass
class SmolHFTextOutput(NewCacheName, BaseModelOutputWithPast):
    """The output of the decoder without its head."""


@dataclass
class SmolHFCausalLMOutput(NewCacheName, CausalLMOutputWithPast):
    """`logits` (batch, positions, vocabulary) at `logits_to_keep`, and the loss of each of these positions.

    `token_losses` (batch, positions) is 0 at a position that predicts no label.
    """

    token_losses: torch.Tensor | None = None


@dataclass
class SmolHFModelOutput(NewCacheName, BaseModelOutputWithPast):
    """`image_hidden_states` are the image features, (tiles, image_seq_len, hidden)."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class SmolHFOutput(NewCacheName, CausalLMOutputWithPast):
    """The fields of the two outputs above."""

    image_hidden_states: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
