"""One decoder layer. Both halves read a normalised copy and add what they found to the residual stream, so that
gradients reach every layer through an unbroken sum."""

from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SmolHFAttention
from .feed_forward import SmolHFFeedForward
from .normalization import build_norm


class SmolHFDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = SmolHFAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = SmolHFFeedForward(config)

    def forward(self, hidden_states, **kwargs):
        """`hidden_states` (batch, sequence, hidden) → the same shape, and the attention weights where kept."""
        attended, weights = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        del attended  # free it before the wider network makes its tensors
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states, weights
