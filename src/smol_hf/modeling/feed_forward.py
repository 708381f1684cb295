"""The position-wise network of a decoder layer: gated (SwiGLU, arXiv:2002.05202) or the plain two layers of GPT-2."""

from torch import nn
from transformers.activations import ACT2FN


class SmolHFFeedForward(nn.Module):
    """Gated: down(act(gate(x)) ⊙ up(x)). Plain: down(act(up(x)))."""

    def __init__(self, config):
        super().__init__()
        self.gated = config.gated_mlp
        if self.gated:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.down_proj.writes_to_residual = True
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states):
        up = self.up_proj(hidden_states)  # (batch, sequence, intermediate)
        if self.gated:
            return self.down_proj(self.activation(self.gate_proj(hidden_states)) * up)
        return self.down_proj(self.activation(up))
