"""Causal self-attention with grouped queries (arXiv:2305.13245).

    attention(Q, K, V) = softmax(Q·Kᵀ / sqrt(head_dim) + mask)·V

The mask says which tokens (columns, keys) each token (row, query) sees (x): itself and the tokens before it.

    one sample of four tokens           two packed samples of two tokens
    position_ids = [0, 1, 2, 3]         position_ids = [0, 1, 0, 1]

        x . . .                             x . . .
        x x . .                             x x . .
        x x x .                             . . x .
        x x x x                             . . x x

Packed samples share a row of the batch, and positions that restart at 0 mark where each begins. The mask becomes
block-diagonal, so no sample sees another.

`attn_implementation` names the kernel that computes the equation: `eager` (`eager_attention` below), `sdpa`,
`flash_attention_2`, `flex_attention`, or one that a user registered.
"""

import torch
from torch import nn
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .compatibility import CACHE_NAME, MASK_ARGUMENTS
from .rotary import apply_rotary


def causal_mask(config, inputs_embeds, attention_mask, cache, position_ids, cache_position):
    """Build the mask drawn above, in the form that the kernel of `config` takes.

    eager: floats (batch, 1, queries, keys), see `eager_attention`.
    sdpa: bools of this shape, True if the query sees the key; None if the mask is only causal.
    flash_attention_2: (batch, keys), False for padding; None without padding.

    Args:
        inputs_embeds: (batch, queries, hidden); only its shape, dtype and device are read.
        attention_mask: (batch, keys), 0 for padding. Without it, `position_ids` that restart mark packed samples.
    """
    arguments = {"inputs_embeds" if "inputs_embeds" in MASK_ARGUMENTS else "input_embeds": inputs_embeds}
    if "cache_position" in MASK_ARGUMENTS:
        arguments["cache_position"] = cache_position
    arguments[CACHE_NAME] = cache
    return create_causal_mask(config=config, attention_mask=attention_mask, position_ids=position_ids, **arguments)


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Compute softmax(Q·Kᵀ · scaling + mask)·V.

    query: (batch, heads, queries, head_dim). key, value: (batch, kv_heads, keys, head_dim).
    Returns (batch, queries, heads, head_dim), and the attention weights, (batch, heads, queries, keys).
    """
    # Each key-value head serves a group of query heads: the cache is smaller by that factor.
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)

    scores = query @ key.transpose(2, 3) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        # The mask is 0 if the query sees the key, else the lowest finite number, whose softmax is 0 too.
        # With -inf, a row that sees nothing (padding) would become NaN.
        scores = scores + attention_mask[:, :, :, : key.shape[-2]]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    del scores  # as large as the weights: free them before the result is allocated
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def refuse_missing_weights(weights, config):
    """Raise ValueError if `weights`, which were requested, are None."""
    if weights is None:
        raise ValueError(
            f"the attention kernel {config._attn_implementation!r} returns no attention weights: "
            "call set_attn_implementation('eager') on the model"
        )


class SmolHFAttention(nn.Module):
    """Projections to queries, keys and values by head, the kernel, and the projection back."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        # Dot products of head_dim independent terms grow with its square root: divide it out.
        self.scaling = config.head_dim**-0.5
        self.use_rotary = config.position_embedding_type == "rotary" and config.no_rope_layers[layer_idx] == 1

        query_size = config.num_attention_heads * config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.o_proj.writes_to_residual = True  # pyright: ignore[reportArgumentType] - a mark for `_init_weights`

    def forward(self, hidden_states, attention_mask, rotary, cache=None, cache_position=None, **kwargs):
        """(batch, sequence, hidden) → the same shape, and the attention weights if the kernel returns them.

        Args:
            attention_mask: see `causal_mask`.
            rotary: cosines and sines of `RotaryEmbedding`, or None.
            cache: transformers' cache of the keys and values of earlier tokens, or None.
        """
        batch_and_sequence = hidden_states.shape[:-1]
        by_head = (*batch_and_sequence, -1, self.config.head_dim)
        query = self.q_proj(hidden_states).view(by_head).transpose(1, 2)  # (batch, heads, sequence, head_dim)
        key = self.k_proj(hidden_states).view(by_head).transpose(1, 2)  # (batch, kv_heads, sequence, head_dim)
        value = self.v_proj(hidden_states).view(by_head).transpose(1, 2)

        if self.use_rotary:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        if cache is not None:
            # Appends to this layer's keys and values of earlier tokens, and returns all: (batch, kv_heads, keys,
            # head_dim) each. Keys are cached after their rotation, since a token's position never changes.
            # transformers 4.57's StaticCache needs cache_position.
            key, value = cache.update(key, value, self.layer_idx, {"cache_position": cache_position})

        attend = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        attended = attended.reshape(*batch_and_sequence, -1).contiguous()  # (batch, sequence, heads · head_dim)
        return self.o_proj(attended), weights
