"""Tiny language models with their tokenizers, in folders as anyone saves them."""

import torch
from helpers import TEXTS, memorise, text_sizes
from transformers import LlamaConfig, LlamaForCausalLM

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

POSITIONS = 128
STORY = "Once upon a time, far away: “Žluťoučký kůň” met 🦊🦊 and 日本語の本 by the sea. Then it slept."
STYLES = {
    "llama": {"num_key_value_heads": 2},
    "gpt": {
        "position_embedding_type": "learned", "norm_type": "layer_norm", "gated_mlp": False, "hidden_act": "gelu_new",
        "attention_bias": True, "mlp_bias": True,
    },
}  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_text_model(style, tokenizer):
    """`style`: one of `STYLES`, or "native" for transformers' own Llama."""
    sizes = text_sizes(tokenizer, max_position_embeddings=POSITIONS)
    torch.manual_seed(0)
    if style == "native":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    return SmolHFForCausalLM(SmolHFTextConfig(**sizes, **STYLES[style]))


def save_text_checkpoint(folder, style="llama", *, steps=0, chat_template=None):
    """A checkpoint with weights large enough that what it writes depends on what it read.

    Args:
        steps: of learning `STORY` and the end token by heart, see `memorise`.
    """
    tokenizer = build_tiny_tokenizer(TEXTS)
    tokenizer.chat_template = chat_template
    model = build_text_model(style, tokenizer)
    if not steps:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.3)
    ids = torch.tensor([[*tokenizer(STORY)["input_ids"], tokenizer.eos_token_id]])
    memorise(model, steps, input_ids=ids, labels=ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
