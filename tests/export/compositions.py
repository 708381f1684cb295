"""Tiny compositions with the connectors of LLaVA, trained until their answers differ, and prompts for them."""

import io
import json

import torch
from conversion.native_models import saved
from helpers import memorise, ready, text_sizes
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    Qwen3Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from smol_hf.conversion.composition.compose import compose
from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer
from smol_hf.training.model.composition import texts_of

SIDE, PAGES = 32, 12
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
ENCODERS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION, intermediate_size=64)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION, intermediate_size=64)),
    "dinov2": lambda: AutoModel.from_config(Dinov2Config(**VISION, mlp_ratio=2)),
}
CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gpt2": GPT2Config}
# The sizes of pages are changed, so that the image processors resize.
SHAPES = [(32, 32), (48, 30), (25, 60), (70, 70), (33, 31), (20, 20)]


def pages():
    return list(build_pages(PAGES, seed=0, split="train", page_size=SIDE))


def save_parts(place, encoder, text):
    """Save an encoder, and a language model with its tokenizer, in folders of `place`."""
    saved(ENCODERS[encoder], place / encoder)
    tokenizer = build_tiny_tokenizer(texts_of(page.conversation for page in pages()))
    sizes = text_sizes(tokenizer, max_position_embeddings=256, num_key_value_heads=2, head_dim=8)
    if text == "gpt2":
        names = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        ids = {name: sizes[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
        sizes = {**names, **ids, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    saved(lambda: AutoModelForCausalLM.from_config(CONFIGS[text](**sizes, tie_word_embeddings=True)), place / text)
    tokenizer.save_pretrained(place / text)


def trained(place, encoder, text, connector, steps=150, **options):
    """Compose a model, train it on pages, and publish it in `place / "checkpoint"`."""
    save_parts(place, encoder, text)
    compose(str(place / encoder), str(place / text), place / "composed", connector=connector, **options)
    model = AutoModelForImageTextToText.from_pretrained(place / "composed").train()
    processor = AutoProcessor.from_pretrained(place / "composed")
    batch = SmolCollator(processor)(ready([page.conversation for page in pages()], processor))
    torch.manual_seed(0)
    memorise(model, steps, **batch)
    publish_checkpoint(place / "checkpoint", model.eval(), processor)
    return place / "checkpoint"


def write_prompts(folder):
    """Write pages of several sizes, and a file with a question about each."""
    rows = []
    for number, page in enumerate(pages()):
        image = Image.open(io.BytesIO(page.conversation.images[0].content)).convert("RGB")
        image.resize(SHAPES[number % len(SHAPES)]).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "prompt": page.question})
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
