"""nanoVLM (github.com/huggingface/nanoVLM): its own SigLIP, Llama and pixel shuffle, and its own kind of folder."""

from __future__ import annotations

import re

from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

NAMES = Renaming(
    [
        ("vision_encoder.patch_embedding.conv.", "vision_model.embeddings.patch_embedding."),
        ("vision_encoder.patch_embedding.position_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("vision_encoder.blocks.{i}.ln1.", "vision_model.encoder.layers.{i}.layer_norm1."),
        ("vision_encoder.blocks.{i}.ln2.", "vision_model.encoder.layers.{i}.layer_norm2."),
        ("vision_encoder.blocks.{i}.attn.out_proj.", "vision_model.encoder.layers.{i}.self_attn.out_proj."),
        ("vision_encoder.blocks.{i}.attn.q.", "vision_model.encoder.layers.{i}.self_attn.q_proj."),
        ("vision_encoder.blocks.{i}.attn.k.", "vision_model.encoder.layers.{i}.self_attn.k_proj."),
        ("vision_encoder.blocks.{i}.attn.v.", "vision_model.encoder.layers.{i}.self_attn.v_proj."),
        ("vision_encoder.blocks.{i}.mlp.", "vision_model.encoder.layers.{i}.mlp."),
        ("vision_encoder.layer_norm.", "vision_model.post_layernorm."),
        ("MP.proj.", "connector.proj."),
        ("decoder.token_embedding.", "language_model.model.embed_tokens."),
        ("decoder.blocks.{i}.norm1.", "language_model.model.layers.{i}.input_layernorm."),
        ("decoder.blocks.{i}.norm2.", "language_model.model.layers.{i}.post_attention_layernorm."),
        ("decoder.blocks.{i}.attn.out_proj.", "language_model.model.layers.{i}.self_attn.o_proj."),
        ("decoder.blocks.{i}.attn.", "language_model.model.layers.{i}.self_attn."),
        ("decoder.blocks.{i}.mlp.", "language_model.model.layers.{i}.mlp."),
        ("decoder.norm.", "language_model.model.norm."),
        ("decoder.head.", "language_model.lm_head."),
    ],
    ignored=[r"\.rotary_embd\.inv_freq$"],
)
# our key → nanoVLM's
TEXT_KEYS = {
    "vocab_size": "lm_vocab_size",
    "hidden_size": "lm_hidden_dim",
    "intermediate_size": "lm_inter_dim",
    "num_hidden_layers": "lm_n_blocks",
    "num_attention_heads": "lm_n_heads",
    "num_key_value_heads": "lm_n_kv_heads",
    "norm_eps": "lm_rms_eps",
    "max_position_embeddings": "lm_max_position_embeddings",
    "tie_word_embeddings": "lm_tie_weights",
}
VISION_KEYS = {
    "hidden_size": "vit_hidden_dim",
    "intermediate_size": "vit_inter_dim",
    "num_hidden_layers": "vit_n_blocks",
    "num_attention_heads": "vit_n_heads",
    "image_size": "vit_img_size",
    "patch_size": "vit_patch_size",
    "layer_norm_eps": "vit_ln_eps",
}
# It writes the same text as nanoVLM's own template, adds images, and marks generated text.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] %}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>{% endgeneration %}"
    "{% else %}{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}IMAGE_TOKEN{% endif %}{% endfor %}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FUSED = re.compile(r"\.attn\.qkv_proj\.(weight|bias)$")


def is_nanovlm(config: dict) -> bool:
    return {"vit_hidden_dim", "lm_hidden_dim", "mp_pixel_shuffle_factor"} <= config.keys()


def read_nanovlm(config: dict) -> SmolHFConfig:
    """Read nanoVLM's configuration. Its encoder takes pixels in [0, 1], hence mean 0 and deviation 1."""
    if config.get("vit_cls_flag"):
        raise ConversionError("vit_cls_flag: an encoder that returns only its class token is unsupported")
    if config.get("lm_attn_scaling", 1.0) != 1.0:
        raise ConversionError(f"lm_attn_scaling {config['lm_attn_scaling']}: only 1.0 is supported")
    if absent := sorted({*TEXT_KEYS.values(), *VISION_KEYS.values(), "lm_re_base"} - config.keys()):
        raise ConversionError(f"nanoVLM's config.json has no {absent[0]!r}")
    text = {ours: config[theirs] for ours, theirs in TEXT_KEYS.items()}
    vision = {ours: config[theirs] for ours, theirs in VISION_KEYS.items()}
    rope = {"rope_type": "default", "rope_theta": float(config["lm_re_base"])}
    return SmolHFConfig(
        text_config=SmolHFTextConfig(**text, rope_parameters=rope),
        vision_config={"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", **vision},
        scale_factor=config["mp_pixel_shuffle_factor"],
        image_token_id=image_token_id(config),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )


def image_token_id(config: dict) -> int:
    """Return the id of the image token.

    nanoVLM appends its extra tokens to the tokenizer, in the order of its configuration. The oldest version
    (nanoVLM-222M) has no image token and puts the image before all text; `<reponame>` of SmolLM2 serves here instead.
    """
    if not config.get("vlm_extra_tokens"):
        return 4
    base = config.get("lm_base_vocab_size", config["lm_vocab_size"] - config.get("extra_token_amount", 1))
    return base + list(config["vlm_extra_tokens"]).index("image_token")


def from_nanovlm(tensors: dict) -> dict:
    split = {}
    for name, tensor in tensors.items():
        if FUSED.search(name):
            split |= {name.replace("qkv_proj", letter): part for letter, part in zip("qkv", tensor.chunk(3))}
        elif name.endswith("patch_embedding.position_embedding"):
            split[name] = tensor.squeeze(0)
        else:
            split[name] = tensor
    return {name: tensor.contiguous() for name, tensor in NAMES.to_ours(split).items()}
