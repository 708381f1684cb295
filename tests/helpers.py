"""Tiny models, processors and runs for the tests; everything is built on the spot, nothing is downloaded."""

from dataclasses import replace

import torch
from memory_source import MemorySource

from smol_hf import SmolHFConfig, SmolHFForCausalLM, SmolHFForConditionalGeneration, SmolHFProcessor
from smol_hf.data.conversation import TextPart
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer
from smol_hf.training.model.presets import preset_config

TEXTS = ["User: What is this? Which digit is written here?", "Assistant: A picture.\n\n"] * 3
TILE_SIZE = 32


def model_of_preset(name, device="meta"):
    """The model of a preset with random weights; on the device "meta" it takes no memory."""
    config = preset_config(name)
    model_class = SmolHFForConditionalGeneration if isinstance(config, SmolHFConfig) else SmolHFForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        return model_class._from_config(config)


def blind(conversation):
    """The conversation without its images."""
    messages = [
        replace(message, parts=tuple(part for part in message.parts if isinstance(part, TextPart)))
        for message in conversation.messages
    ]
    return replace(conversation, messages=tuple(messages))


def build_processor(**options):
    """A processor of 32-pixel tiles, 4 tokens each, that cuts pictures into up to 2 × 2 tiles and an overview."""
    defaults = {"tile_size": TILE_SIZE, "image_seq_len": 4, "longest_edge": 2 * TILE_SIZE}
    return SmolHFProcessor(build_tiny_tokenizer(TEXTS), **{**defaults, **options})


def text_sizes(tokenizer, **changes):
    """The arguments of a tiny decoder's configuration for a tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"vocab_size": len(tokenizer), **sizes, **ids, **changes}


def memorise(model, steps, **batch):
    """Train on one batch until the model knows it by heart; a hundred steps suffice."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def build_model(processor, **options):
    """A vision-language model of some ten thousand parameters that fits `build_processor`."""
    text = text_sizes(processor.tokenizer, num_key_value_heads=2)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": TILE_SIZE, "patch_size": 8,
    }  # fmt: skip
    config = SmolHFConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        image_token_id=processor.image_token_id,
        **options,
    )
    return SmolHFForConditionalGeneration(config)


def plan_for(conversations, processor, *, context_length=256, lanes=4, **options):
    """The engine's plan of some conversations: one sample per row, without end."""
    rows = [(conversation.sample_id, conversation) for conversation in conversations]
    work = SampleWork(processor, context_length, [None])
    return Plan([MemorySource("samples", rows)], [1.0], work, context_length, lanes=lanes, **options)


def ready(conversations, processor, context_length=256):
    """The conversations as the collator takes them, in their order."""
    work = SampleWork(processor, context_length, [None])
    return [work.encode(0, work.prepare(0, each.sample_id, each)) for each in conversations]
