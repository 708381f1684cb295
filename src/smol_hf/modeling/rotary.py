"""Rotary position embedding (RoFormer, arXiv:2104.09864), in Llama's order of channels.

Each pair of channels (i, i + head_dim/2) of a query or key is a point (x, y) of the plane. At position p it is rotated
by the angle φ = p·θ^(-2i/head_dim):

    (x, y) → (x·cos φ - y·sin φ, y·cos φ + x·sin φ)

The dot product of two rotated vectors depends only on the difference of their positions. This is how attention learns
the order of tokens.
"""

import torch
from torch import nn


class RotaryEmbedding(nn.Module):
    """Cosines and sines of all angles, computed once per forward pass and shared by all layers.

    Nothing is stored: transformers 5 builds models on the meta device before it loads them, so a buffer made in
    `__init__` would contain arbitrary values.
    """

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_theta = config.rope_parameters["rope_theta"]

    @torch.no_grad()
    def forward(self, position_ids, dtype):
        """`position_ids` (batch, sequence) → cos φ, ±sin φ, each (batch, 1, sequence, head_dim) in `dtype`."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device) / self.head_dim
        frequencies = 1.0 / self.rope_theta**exponents  # (head_dim / 2)
        # Angles are always float32: bfloat16 cannot distinguish position 257 from 258.
        angles = position_ids[:, None, :, None].float() * frequencies  # (batch, 1, sequence, head_dim / 2)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def apply_rotary(states, cos, sin):
    """Rotate the pairs of `states` (batch, heads, sequence, head_dim): (x, y)·cos φ + (y, x)·(-sin φ, sin φ)."""
    # a + b·c in one operation
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)
