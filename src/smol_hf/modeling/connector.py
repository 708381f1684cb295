"""From what the image encoder sees to what the language model reads: three published connectors.

`linear` and `mlp` (LLaVA, arXiv:2310.03744) turn each patch into one token. `pixel_shuffle` (Idefics3,
arXiv:2408.12637; SmolVLM, arXiv:2504.05299) first folds each square of s×s patches into one token with s² times
the channels: nothing is thrown away, and the sequence is s² times shorter.
"""

from torch import nn


def pixel_shuffle(features, scale_factor):
    """(tiles, side², channels) → (tiles, (side/s)², s²·channels).

    The channels of a token are ordered (row in the square, column in the square, channel), as in Idefics3.
    """
    tiles, patches, channels = features.shape
    side = int(patches**0.5)
    small = side // scale_factor
    features = features.view(tiles, small, scale_factor, small, scale_factor, channels)
    features = features.permute(0, 1, 3, 2, 4, 5)  # the square's own axes next to its channels
    return features.reshape(tiles, small * small, scale_factor * scale_factor * channels)


class SmolHFConnector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.connector_type = config.connector_type
        self.scale_factor = config.scale_factor if config.connector_type == "pixel_shuffle" else 1
        vision_hidden = config.vision_config.hidden_size * self.scale_factor**2
        text_hidden = config.text_config.hidden_size
        if self.connector_type == "mlp":
            self.linear_1 = nn.Linear(vision_hidden, text_hidden, bias=config.connector_bias)
            self.activation = nn.GELU()
            self.linear_2 = nn.Linear(text_hidden, text_hidden, bias=config.connector_bias)
        else:
            self.proj = nn.Linear(vision_hidden, text_hidden, bias=config.connector_bias)

    def forward(self, features):
        """(tiles, patches, vision_hidden) → (tiles, image_seq_len, hidden)."""
        if self.connector_type == "mlp":
            return self.linear_2(self.activation(self.linear_1(features)))
        if self.connector_type == "pixel_shuffle":
            features = pixel_shuffle(features, self.scale_factor)
        return self.proj(features)
