"""One decoder layer and the parts of it that are not attention, and the head.

    x ← x + Attn(Norm(x))        information moves between tokens
    x ← x + MLP(Norm(x))         each token is transformed separately

x is the residual stream, (batch, sequence, hidden). Both halves read a normalised copy of x and add their result to x.
So gradients reach every layer through a sum, without passing through other layers.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SmolHFAttention
from .mask import kernel_dtype


class SmolHFDecoderLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward network, each behind a norm."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = SmolHFAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = SmolHFFeedForward(config)

    def forward(self, hidden_states, **kwargs):
        """(batch, sequence, hidden) → the same shape, and the attention weights; `kwargs`: see `SmolHFAttention`."""
        attended, weights = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        del attended  # free it before the feed-forward network allocates its wider tensors
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states, weights


class SmolHFFeedForward(nn.Module):
    """Feed-forward network of each token, MLP(x).

    Gated (SwiGLU, arXiv:2002.05202): down(act(gate(x)) ⊙ up(x)). Plain (GPT-2): down(act(up(x))).
    """

    def __init__(self, config):
        super().__init__()
        self.gated = config.gated_mlp
        if self.gated:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.down_proj.writes_to_residual = True  # pyright: ignore[reportArgumentType] - a mark for `_init_weights`
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states):
        """(batch, sequence, hidden) → the same shape."""
        up = self.up_proj(hidden_states)  # (batch, sequence, intermediate)
        if self.gated:
            return self.down_proj(self.activation(self.gate_proj(hidden_states)) * up)
        return self.down_proj(self.activation(up))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) · weight, over the channels (arXiv:1910.07467).

    This is LayerNorm without mean and bias. It keeps the scale of the residual stream under control as depth grows.
    """

    def __init__(self, hidden_size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states):
        """(…, hidden) → the same shape. Of the dtypes of input and weight, the result has the more precise."""
        # `rms_norm` computes in float32: the mean of squares overflows float16 and loses digits in bfloat16.
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        return nn.functional.rms_norm(hidden_states.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)


class LanguageModelHead(nn.Linear):
    """One score per token of the vocabulary: hidden_states · weightᵀ. The weights can be the embedding table's."""

    def __init__(self, config):
        super().__init__(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, hidden_states):
        """(batch, positions, hidden) → logits, (batch, positions, vocabulary)."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_compiling()
        one_dtype = kernel_dtype(hidden_states) == hidden_states.dtype == self.weight.dtype  # no autocast
        if trains and one_dtype:
            return ProductWithTiedWeight.apply(hidden_states, self.weight)
        return super().forward(hidden_states)


class ProductWithTiedWeight(torch.autograd.Function):
    """hidden_states · weightᵀ, with a gradient of the weight to which autograd can add in place.

    A tied weight gets a second gradient, that of the embeddings. Both are as large as the table, the largest matrix of
    a small model. `F.linear` returns its gradient as a view. Autograd cannot add to a view, and allocates a third one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden_states, weight):
        return nn.functional.linear(hidden_states, weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        """d/d hidden_states = gradient · weight; d/d weight = gradientᵀ · hidden_states, summed over the positions."""
        hidden_states, weight = ctx.saved_tensors
        wanted_hidden, wanted_weight = ctx.needs_input_grad
        return (
            gradient @ weight if wanted_hidden else None,
            gradient.flatten(0, -2).T @ hidden_states.flatten(0, -2) if wanted_weight else None,
        )


def build_norm(config):
    """Build the norm that `config` names: Llama's RMSNorm or GPT-2's LayerNorm."""
    if config.norm_type == "layer_norm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
    return RMSNorm(config.hidden_size, eps=config.norm_eps)
