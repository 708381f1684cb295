"""Rotary position embedding (RoFormer, arXiv:2104.09864), in Llama's arrangement of channels.

Each pair of channels (i, i + head_dim/2) of a query or key is a point of the plane. At position p it is turned by
the angle p·θ^(-2i/head_dim). A dot product of two turned vectors depends only on the difference of their positions,
which is what attention needs to know about order.
"""

import torch
from torch import nn


class RotaryEmbedding(nn.Module):
    """Cosines and sines of all angles, computed once per forward pass and shared by every layer.

    Nothing is stored: a buffer made in `__init__` would come back as garbage from transformers 5, which builds
    models on the meta device before it loads them.
    """

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_theta = config.rope_parameters["rope_theta"]

    @torch.no_grad()
    def forward(self, position_ids, dtype):
        """`position_ids` (batch, sequence) → cos, sin, each (batch, 1, sequence, head_dim) in `dtype`."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device) / self.head_dim
        frequencies = 1.0 / self.rope_theta**exponents  # (head_dim / 2)
        # Angles in float32 whatever the model's dtype: bfloat16 cannot tell position 257 from 258.
        angles = position_ids[:, None, :, None].float() * frequencies  # (batch, 1, sequence, head_dim / 2)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate_half(states):
    """(x, y) → (-y, x) for each pair: the turn by a right angle."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary(states, cos, sin):
    """Turn `states` (batch, heads, sequence, head_dim): x·cos + (x turned by 90°)·sin."""
    return states * cos + rotate_half(states) * sin
