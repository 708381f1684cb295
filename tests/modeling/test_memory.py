"""The models take no more memory than transformers' Llama and SmolVLM of the same sizes."""

from functools import cache

import pytest
import torch
from modeling.builders import ENCODERS, IMAGE_TOKEN_ID, SPECIAL_IDS, random_tiles
from transformers import LlamaConfig, LlamaForCausalLM, SmolVLMConfig, SmolVLMForConditionalGeneration

from smol_hf import SmolHFConfig, SmolHFForCausalLM, SmolHFForConditionalGeneration, SmolHFTextConfig
from smol_hf.estimate.traced_step import StepCounter

TOKENS, TILES = 512, 32
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": TOKENS,
    "tie_word_embeddings": True,
    **SPECIAL_IDS,
}


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES)), {}


def text():
    return SmolHFForCausalLM(SmolHFTextConfig(**SIZES)), {}


def smolvlm():
    vision = {**ENCODERS["siglip"], "model_type": "smolvlm_vision"}
    config = SmolVLMConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **SIZES},
        scale_factor=2,
        image_token_id=IMAGE_TOKEN_ID,
        pad_token_id=SPECIAL_IDS["pad_token_id"],
        tie_word_embeddings=True,
    )
    tiles = random_tiles(TILES).unsqueeze(0) / 127.5 - 1  # (batch, tiles, 3, side, side), normalised
    return SmolVLMForConditionalGeneration(config), {"pixel_values": tiles}


def vlm():
    config = SmolHFConfig(
        text_config=SmolHFTextConfig(**SIZES),
        vision_config=ENCODERS["siglip"],
        scale_factor=2,
        image_token_id=IMAGE_TOKEN_ID,
    )
    return SmolHFForConditionalGeneration(config), {"pixel_values": random_tiles(TILES)}


@cache
def peak_bytes(build, implementation, work):
    """The most bytes of tensors that are alive at once in `work`: forward, training or checkpointing."""
    model, images = build()
    model.set_attn_implementation(implementation)
    ids = torch.randint(10, SIZES["vocab_size"], (1, TOKENS))
    if images:
        ids[:, 3 : 3 + TILES * 9] = IMAGE_TOKEN_ID
    if work == "forward":
        model.eval()
        with torch.no_grad(), StepCounter() as step:
            model(input_ids=ids, use_cache=False, **images)
        return step.peak
    model.train()
    if work == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with StepCounter() as step:
        model(input_ids=ids, labels=ids, use_cache=False, **images).loss.backward()
    return step.peak


@pytest.mark.parametrize("work", ["forward", "training", "checkpointing"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("build", "peer"), [(text, llama), (vlm, smolvlm)])
def test_peak_memory_is_that_of_transformers(build, peer, implementation, work):
    assert peak_bytes(build, implementation, work) <= 1.02 * peak_bytes(peer, implementation, work)


def test_kept_states_are_seen_by_the_measure():
    """Asked for, the hidden states and attention weights of 8 layers take more than twice the memory."""
    model, _ = text()
    model.set_attn_implementation("eager")
    ids = torch.randint(10, SIZES["vocab_size"], (1, TOKENS))
    with torch.no_grad(), StepCounter() as step:
        model.eval()(ids, use_cache=False, output_attentions=True, output_hidden_states=True)
    assert step.peak > 2 * peak_bytes(text, "eager", "forward")
