"""The two normalisations of decoders: RMSNorm (Llama) and LayerNorm (GPT-2)."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) · weight, over the channels (arXiv:1910.07467).

    LayerNorm without its centring and its bias: what keeps training stable is the common scale.
    """

    def __init__(self, hidden_size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states):
        # In float32: the mean of squares overflows float16 and loses digits in bfloat16.
        normed = nn.functional.rms_norm(hidden_states.float(), self.weight.shape, eps=self.eps)
        return self.weight * normed.to(hidden_states.dtype)


def build_norm(config):
    if config.norm_type == "layer_norm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
    return RMSNorm(config.hidden_size, eps=config.norm_eps)
