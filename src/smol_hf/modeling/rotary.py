"""Rotary position embedding (RoFormer, arXiv:2104.09864), in Llama's order of channels.

Each pair of channels (i, i + head_dim/2) of a query or key is a point of the plane. At position p it is turned by
the angle p·θ^(-2i/head_dim). A dot product of two turned vectors depends only on the difference of their positions,
which is what attention needs to know about order.
"""

import torch
from torch import nn


class RotaryEmbedding(nn.Module):
    """Cosines and sines of all angles, computed once per forward pass and shared by every layer.

    Nothing is stored: transformers 5 builds models on the meta device before it loads them, so a buffer made in
    `__init__` would hold garbage.
    """

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_theta = config.rope_parameters["rope_theta"]

    @torch.no_grad()
    def forward(self, position_ids, dtype):
        """`position_ids` (batch, sequence) → cos, ±sin, each (batch, 1, sequence, head_dim) in `dtype`."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device) / self.head_dim
        frequencies = 1.0 / self.rope_theta**exponents  # (head_dim / 2)
        # Angles in float32 whatever the model's dtype: bfloat16 cannot tell position 257 from 258.
        angles = position_ids[:, None, :, None].float() * frequencies  # (batch, 1, sequence, head_dim / 2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def apply_rotary(states, cos, sin):
    """Turn `states` (batch, heads, sequence, head_dim), whose pairs (x, y) are half of `head_dim` apart:
    (x, y)·cos + (y, x)·(-sin, sin)."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin
