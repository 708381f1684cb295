"""Connectors: features of the image encoder → embeddings of the language model.

`linear` and `mlp` (LLaVA, arXiv:2310.03744) turn each patch into one token. `pixel_shuffle` (Idefics3,
arXiv:2408.12637; SmolVLM, arXiv:2504.05299) first folds each square of patches into one token.
"""

from torch import nn


class LinearConnector(nn.Module):
    """One matrix: every patch becomes a token of the language model, y = W·x (+ b)."""

    def __init__(self, config):
        super().__init__()
        vision_hidden = config.vision_config.hidden_size * config.folded_side**2
        self.proj = nn.Linear(vision_hidden, config.text_config.hidden_size, bias=config.connector_bias)

    def forward(self, features):
        """(tiles, patches, vision_hidden) → (tiles, image_seq_len, hidden)."""
        return self.proj(features)


class PixelShuffleConnector(LinearConnector):
    """Squares of patches become tokens (see `pixel_shuffle`), then one matrix."""

    def __init__(self, config):
        super().__init__(config)
        self.scale_factor = config.scale_factor

    def forward(self, features):
        """(tiles, patches, vision_hidden) → (tiles, image_seq_len, hidden)."""
        return self.proj(pixel_shuffle(features, self.scale_factor))


class MLPConnector(nn.Module):
    """Two matrices: every patch becomes a token, y = W₂·GELU(W₁·x)."""

    def __init__(self, config):
        super().__init__()
        hidden = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, hidden, bias=config.connector_bias)
        self.activation = nn.GELU()
        self.linear_2 = nn.Linear(hidden, hidden, bias=config.connector_bias)

    def forward(self, features):
        """(tiles, patches, vision_hidden) → (tiles, image_seq_len, hidden)."""
        return self.linear_2(self.activation(self.linear_1(features)))


CONNECTORS = {"pixel_shuffle": PixelShuffleConnector, "linear": LinearConnector, "mlp": MLPConnector}


def build_connector(config):
    """Build the connector that `config.connector_type` names, with random weights."""
    return CONNECTORS[config.connector_type](config)


def pixel_shuffle(features, scale_factor):
    """Fold squares of patches: (tiles, side², channels) → (tiles, (side/s)², s²·channels) with s = `scale_factor`.

    Also called space-to-depth. With s = 2, 4 patches become 1 token with 4 times the channels. No number is lost, and
    the sequence is 4 times shorter:

        a b  c d
        e f  g h          abef  cdgh
                    →
        i j  k l          ijmn  klop
        m n  o p

    The channels of a token are ordered (row in the square, column in the square, channel), as in Idefics3.
    """
    tiles, patches, channels = features.shape
    side = int(patches**0.5)
    small = side // scale_factor
    features = features.view(tiles, small, scale_factor, small, scale_factor, channels)
    features = features.permute(0, 1, 3, 2, 4, 5)  # (tiles, small, small, s, s, channels)
    return features.reshape(tiles, small * small, scale_factor * scale_factor * channels)
