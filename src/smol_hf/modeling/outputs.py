"""What the forwards return: transformers' outputs, with the fields that are ours. The cache has both of its names."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .compatibility import NewCacheName


@dataclass
class SmolHFTextOutput(NewCacheName, BaseModelOutputWithPast):
    """Of the decoder without its head."""


@dataclass
class SmolHFCausalLMOutput(NewCacheName, CausalLMOutputWithPast):
    """`token_losses` (batch, positions) are those of the labels that the positions of `logits` predict, 0 for none."""

    token_losses: torch.Tensor | None = None


@dataclass
class SmolHFModelOutput(NewCacheName, BaseModelOutputWithPast):
    """`image_hidden_states` are the image features, (tiles, image_seq_len, hidden)."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class SmolHFOutput(NewCacheName, CausalLMOutputWithPast):
    """`logits` (batch, positions, vocabulary) belong to the positions `logits_to_keep`, `token_losses` (batch,
    positions) to the labels that they predict, 0 where there is none."""

    image_hidden_states: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
