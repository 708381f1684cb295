"""The models and samples of the benchmarks: ours and transformers' SmolVLM of the same sizes and weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model and of its images.

    Attributes:
        vision, text: hidden, intermediate, layers, heads.
        tile, longest_edge, images: sides in pixels; `images` is the least and the most of a sample.
        scale: of the pixel shuffle.
    """

    patch: int
    vocabulary: int
    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    key_value_heads: int = 2
    tile: int = 128
    longest_edge: int = 256
    scale: int = 2
    images: tuple[int, int] = (40, 400)

    @property
    def image_seq_len(self) -> int:
        """Tokens of a tile."""
        return (self.tile // self.patch // self.scale) ** 2


SMALL = Sizes(patch=16, vocabulary=16384, vision=(192, 768, 4, 4), text=(256, 768, 4, 4))
# In SmolVLM-256M, the encoder needs 214 GFLOP for a tile (SigLIP-B/16, 512 pixels, 12 layers), as the layers of its
# decoder for 1,008 tokens, and a tile becomes 64 tokens. Here these numbers are 3.3 GFLOP, 1,056 tokens and 64 tokens.
SCALED = Sizes(patch=8, vocabulary=4096, vision=(192, 768, 12, 4), text=(128, 384, 8, 4))
SIGLIP_BASE = (768, 3072, 12, 12)
PUBLISHED = {"tile": 512, "longest_edge": 2048, "scale": 4, "images": (300, 2000)}
SIZES = {
    "small": SMALL,
    "smolvlm2-256m": Sizes(16, 49280, SIGLIP_BASE, (576, 1536, 30, 9), 3, **PUBLISHED),
    "smolvlm2-500m": Sizes(16, 49280, SIGLIP_BASE, (960, 2560, 32, 15), 5, **PUBLISHED),
}
WORDS = "what does this picture show here of the some any small red blue page with lines and dots".split()


def build_samples(number, sizes=SMALL, mixture=False):
    """(images, question, answer) of images of noise, and of answers of 4 to 40 words.

    Each sample has an image of random size; with `SMALL`, it is 1 to 5 tiles. In a mixture, a quarter each has one
    image, no image, two images, and eight frames of a video as large as a tile. The longest answer has 120 words then.
    """
    random = np.random.default_rng(0)

    def draw(*sides):
        width, height = sides or (int(side) for side in random.integers(*sizes.images, 2))
        return Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))

    samples = []
    for index in range(number):
        kind = index % 4 if mixture else 0
        images = (
            [draw(sizes.tile, sizes.tile) for _ in range(8)] if kind == 3 else [draw() for _ in range((1, 0, 2)[kind])]
        )
        most_words = (12, 120 if mixture else 40)
        question, answer = (" ".join(random.choice(WORDS, int(random.integers(4, most)))) for most in most_words)
        samples.append((images, question, answer))
    return samples


def build_tokenizer():
    from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

    return build_tiny_tokenizer([" ".join(WORDS), "User: Assistant: \n\n"] * 3)


def configurations(tokenizer, sizes=SMALL):
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = {**dict(zip(names, sizes.vision)), "image_size": sizes.tile, "patch_size": sizes.patch}
    text = {
        **dict(zip(names, sizes.text)), "vocab_size": sizes.vocabulary, "num_key_value_heads": sizes.key_value_heads,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": True,
    }  # fmt: skip
    return vision, text


def build_peer(tokenizer, sizes=SMALL):
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision, text = configurations(tokenizer, sizes)
    config = SmolVLMConfig(
        vision_config=vision,
        text_config={"model_type": "llama", "rms_norm_eps": 1e-5, **text},
        scale_factor=sizes.scale,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return SmolVLMForConditionalGeneration(config)


def build_ours(tokenizer, sizes=SMALL):
    from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration

    vision, text = configurations(tokenizer, sizes)
    torch.manual_seed(0)
    return SmolHFForConditionalGeneration(
        SmolHFConfig(
            vision_config={"model_type": "siglip_vision_model", **vision},
            text_config={"norm_eps": 1e-5, **text},
            scale_factor=sizes.scale,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )


def build_processor(model, tokenizer, sizes=SMALL, **options):
    from smol_hf import SmolHFProcessor

    edges = {"tile_size": sizes.tile, "longest_edge": sizes.longest_edge}
    return SmolHFProcessor(tokenizer, image_seq_len=model.config.image_seq_len, **edges, **options)


def copy_weights(model, weights):
    """Give our model the peer's weights: only the names of the three parts differ."""
    prefixes = {
        "model.vision_model.": "vision_model.",
        "model.connector.modality_projection.proj.": "connector.proj.",
        "model.text_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    renamed = {}
    for name, weight in weights.items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        renamed[prefixes[prefix] + name.removeprefix(prefix)] = weight
    model.load_state_dict(renamed)
