"""Tiny models of transformers' own classes, saved as their users would have them."""

import torch
from modeling.builders import BACKBONES, ENCODERS, IMAGE_TOKEN_ID, LLAMA_LIKE, VOCAB_SIZE, randomise
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

ROPE = {"rope_type": "default", "rope_theta": 100000.0}
SIDE = 24  # pixels
SIGLIP = {name: value for name, value in ENCODERS["siglip"].items() if name != "model_type"}


def llama(tied=True):
    return LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE, rope_parameters=ROPE, tie_word_embeddings=tied))


def smollm3():
    return SmolLM3ForCausalLM(SmolLM3Config(**{**LLAMA_LIKE, "num_hidden_layers": 4}, rope_parameters=ROPE))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**{k: v for k, v in BACKBONES["gpt2"].items() if k != "model_type"}))


def vlm(config_class, model_class, tied=False):
    text = dict(model_type="llama", **LLAMA_LIKE, rope_parameters=ROPE, tie_word_embeddings=tied)
    return model_class(
        config_class(
            text_config=text, vision_config=SIGLIP, scale_factor=2, image_token_id=IMAGE_TOKEN_ID,
            tie_word_embeddings=tied, pad_token_id=0,
        )
    )  # fmt: skip


def smolvlm(tied=False):
    return vlm(SmolVLMConfig, SmolVLMForConditionalGeneration, tied)


def idefics3():
    return vlm(Idefics3Config, Idefics3ForConditionalGeneration)


def llava():
    text = dict(model_type="llama", **LLAMA_LIKE, rope_parameters=ROPE, tie_word_embeddings=False)
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text, vision_config=ENCODERS["clip"], image_token_index=IMAGE_TOKEN_ID,
            image_token_id=IMAGE_TOKEN_ID, tie_word_embeddings=False, vision_feature_layer=-2,
        )
    )  # fmt: skip


TEXT_MODELS = {"llama": llama, "llama-untied": lambda: llama(False), "smollm3": smollm3, "gpt2": gpt2}
VISION_MODELS = {"smolvlm": smolvlm, "smolvlm-tied": lambda: smolvlm(True), "idefics3": idefics3, "llava": llava}


def saved(build, folder):
    """The model with random weights, saved in `folder`, and itself."""
    torch.manual_seed(0)
    model = randomise(build())
    model.save_pretrained(folder)
    return model


def inputs_for(native):
    """Two rows of text; for a vision-language model, with one tile each."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, VOCAB_SIZE, (2, 48), generator=generator)
    if not hasattr(native.config, "vision_config"):
        return {"input_ids": ids}
    tokens = 36 if native.config.model_type == "llava" else 9
    ids[:, 2 : 2 + tokens] = IMAGE_TOKEN_ID
    pixel_values = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    if native.config.model_type != "llava":
        pixel_values = pixel_values.unsqueeze(1)  # (batch, tiles, 3, height, width)
    return {"input_ids": ids, "pixel_values": pixel_values}


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits
