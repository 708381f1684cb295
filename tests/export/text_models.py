"""Random text-only models whose greedy answers differ."""

import torch
from helpers import text_sizes

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.text.byte_level_bpe import build_byte_level_tokenizer


def random_text_model(folder, tokenizer=None, seed=0, **config):
    """Save a random text-only model whose six answers differ."""
    tokenizer = tokenizer or build_byte_level_tokenizer(
        ["The capital of France is 22. def add(a, b): return"] * 3,
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        named={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        model_max_length=256,
    )
    sizes = text_sizes(tokenizer, hidden_size=64, intermediate_size=256, max_position_embeddings=256, **config)
    torch.manual_seed(seed)
    model = SmolHFForCausalLM(SmolHFTextConfig(**sizes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(15)  # with small random weights a tied model repeats its last token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
