"""Causal self-attention with grouped queries (arXiv:2305.13245).

    attention(Q, K, V) = softmax(Q·Kᵀ / sqrt(head_dim) + mask)·V

`mask` draws which tokens a token sees. `attn_implementation` names the kernel that computes the equation: `eager`
(`eager_attention` below), `sdpa`, `flash_attention_2`, `flex_attention`, or one that a user registered. If they
know `sample_bounds`, all but `eager` skip what samples of packed rows do not see.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .compatibility import varlen_attn
from .mask import kernel_dtype
from .rotary import apply_rotary


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


def attention_by_sample(
    module, query, key, value, attention_mask, scaling, cu_seq_lens_q, max_length_q=None, dropout=0.0, **kwargs
):  # fmt: skip
    """Compute the equation for each sample of packed rows separately, see `sample_bounds`; shapes: `eager_attention`.

    Returns (batch · queries, heads, head_dim), and None: these kernels return no weights.
    """
    # (batch, heads, sequence, head_dim) → (batch · sequence, heads, head_dim)
    query, key, value = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if query.device.type != "cpu":
        max_length_q = int(cu_seq_lens_q.diff().max()) if max_length_q is None else max_length_q
        query, key, value = (states.to(kernel_dtype(states)) for states in (query, key, value))
        attended = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling,
            window_size=(-1, 0), enable_gqa=True,  # any number of tokens before, and none behind
        )  # fmt: skip
        return attended, None
    lengths = cu_seq_lens_q.diff().tolist()
    samples = zip(*(states.transpose(0, 1).unsqueeze(0).split(lengths, dim=2) for states in (query, key, value)))
    options = {"dropout_p": dropout, "is_causal": True, "scale": scaling, "enable_gqa": True}
    attended = [nn.functional.scaled_dot_product_attention(*sample, **options) for sample in samples]
    return torch.cat(attended, dim=2).squeeze(0).transpose(0, 1), None


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

    def forward(
        self, hidden_states, attention_mask, rotary, cache=None, cache_position=None, by_sample=False, **kwargs
    ):  # fmt: skip
        """(batch, sequence, hidden) → the same shape, and the attention weights if the kernel returns them.

        Args:
            attention_mask: see `causal_mask`.
            rotary: cosines and sines of `RotaryEmbedding`, or None.
            cache: transformers' cache of the keys and values of earlier tokens, or None.
            by_sample: see `mask_and_kernel`.
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
        attend = attention_by_sample if by_sample else attend
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        attended = attended.reshape(*batch_and_sequence, -1).contiguous()  # (batch, sequence, heads · head_dim)
        return self.o_proj(attended), weights
