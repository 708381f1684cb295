"""Tiny models of every kind that the package composes, and inputs for them."""

import torch

from smol_hf import (
    SmolHFConfig,
    SmolHFForCausalLM,
    SmolHFForConditionalGeneration,
    SmolHFProcessor,
    SmolHFTextConfig,
)
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

VOCAB_SIZE = 96
IMAGE_TOKEN_ID = 5
SIDE = 6  # patches of a tile's side
KEEP_CLASS_TOKEN = {"vision_feature_select_strategy": "full"}

TEXT_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# The decoder in its three styles.
DECODERS = {
    "rotary": {},
    "gpt": {
        "norm_type": "layer_norm",
        "position_embedding_type": "learned",
        "gated_mlp": False,
        "hidden_act": "gelu_new",
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
    },
    "nope": {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]},
}

# Image encoders of transformers, all with SIDE × SIDE patches of 4 pixels.
VISION_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}
ENCODERS = {
    "siglip": dict(model_type="siglip_vision_model", image_size=4 * SIDE, **VISION_SIZES),
    "siglip2": dict(model_type="siglip2_vision_model", num_patches=SIDE**2, **VISION_SIZES),
    "clip": dict(model_type="clip_vision_model", image_size=4 * SIDE, **VISION_SIZES),
    "dinov2": dict(
        model_type="dinov2",
        image_size=4 * SIDE,
        mlp_ratio=2,
        **{name: size for name, size in VISION_SIZES.items() if name != "intermediate_size"},
    ),
}

# Language models of transformers. Gemma 2 has caps on attention scores and logits, set low enough to bend them.
LLAMA_LIKE = {**TEXT_SIZES, **SPECIAL_IDS}
BACKBONES = {
    "gpt2": dict(model_type="gpt2", vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=128,
                 attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **SPECIAL_IDS),
    "llama": dict(model_type="llama", **LLAMA_LIKE),
    "qwen3": dict(model_type="qwen3", head_dim=8, **LLAMA_LIKE),
    "gemma2": dict(model_type="gemma2", head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=2.0,
                   final_logit_softcapping=1.0, **LLAMA_LIKE),
    "opt": dict(model_type="opt", vocab_size=VOCAB_SIZE, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, dropout=0.0, **SPECIAL_IDS),
}  # fmt: skip


def randomise(model, scale=0.1, seed=0):
    """Moves every parameter, so that norms are not 1 and biases not 0. In evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def text_config(style="rotary", **changes):
    return SmolHFTextConfig(**{**TEXT_SIZES, **SPECIAL_IDS, **DECODERS[style], **changes})


def build_decoder(style="rotary", **changes):
    return randomise(SmolHFForCausalLM(text_config(style, **changes)))


def vlm_config(encoder="siglip", decoder="rotary", **changes):
    """`encoder` and `decoder` by name in the tables above; by default 36 patches become 9 tokens."""
    text = BACKBONES[decoder] if decoder in BACKBONES else text_config(decoder)
    settings = {
        "text_config": text,
        "vision_config": ENCODERS[encoder],
        "connector_type": "pixel_shuffle",
        "scale_factor": 2,
        "image_token_id": IMAGE_TOKEN_ID,
    }
    return SmolHFConfig(**{**settings, **changes})


def build_vlm(encoder="siglip", decoder="rotary", **changes):
    return randomise(SmolHFForConditionalGeneration(vlm_config(encoder, decoder, **changes)))


def random_text(length, seed=0):
    """Token ids (list) without any special one."""
    return torch.randint(10, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def random_tiles(count, side=4 * SIDE, seed=0):
    """uint8 (count, 3, side, side)"""
    shape = (count, 3, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def image_prompt(config, images=1, seed=0):
    """Token ids (list): some text, and between it `images` times the tokens of one tile."""
    ids = random_text(3, seed)
    for image in range(images):
        ids += [IMAGE_TOKEN_ID] * config.image_seq_len + random_text(2, seed + image + 1)
    return ids


def one_row(ids):
    return torch.tensor([ids])


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def largest_difference(these, those):
    assert these.keys() == those.keys()
    return max((these[name] - those[name]).abs().max().item() for name in these)


def build_tokenizer():
    texts = ["What is in the picture?", "A cat sits on the mat.", "Assistant: yes. User: no. System: be brief."]
    return build_tiny_tokenizer(texts * 4)


def build_processor(**changes):
    settings = {"tile_size": 32, "image_seq_len": 4, "longest_edge": 64}
    return SmolHFProcessor(build_tokenizer(), **{**settings, **changes})


def training_inputs(config, seed=0):
    ids = image_prompt(config, images=2, seed=seed) + random_text(5, seed + 9)
    labels = [-100] * (len(ids) - 4) + ids[-4:]
    return {
        "input_ids": one_row(ids),
        "pixel_values": random_tiles(2, seed=seed),
        "labels": one_row(labels),
        "use_cache": False,
    }
