"""The language model of LLaVA: transformers' base model, and a head that LLaVA applies to its output."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from smol_hf.auto import AutoModelForCausalLM
from smol_hf.conversion.formats import gpt, llama
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import class_names
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

# LLaVA computes these exactly. The heads of gemma2, granite and cohere scale or cap the logits, and LLaVA's does not.
LANGUAGE_MODELS = (
    "gemma", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3", "smollm3",
)  # fmt: skip
# {name: (configuration, tensors)} of our decoder in the form of transformers' classes
DECODERS = {
    "llama": (llama.write_llama, llama.to_llama),
    "smollm3": (llama.write_smollm3, llama.to_llama),
    "gpt2": (gpt.write_gpt2, gpt.to_gpt2),
}


def native_decoder(config: SmolHFTextConfig) -> str:
    """Return the class of transformers, as a key of `DECODERS`, that fits our decoder."""
    if config.position_embedding_type == "learned":
        return "gpt2"
    return "smollm3" if 0 in config.no_rope_layers else "llama"


def write_text_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration for LLaVA, with an untied head. Raise ConversionError for an unsupported model."""
    if isinstance(config, SmolHFTextConfig):
        write, _ = DECODERS[native_decoder(config)]
        config = write(config)
    if config.model_type not in LANGUAGE_MODELS:
        raise ConversionError(
            f"text_config is {config.model_type!r}: LlavaForConditionalGeneration does not compute it exactly; "
            f"choose a language model of {', '.join(LANGUAGE_MODELS)}"
        )
    width = getattr(config, "word_embed_proj_dim", config.hidden_size)
    if width != config.hidden_size:
        raise ConversionError(
            f"text_config has word_embed_proj_dim {width} and hidden_size {config.hidden_size}: "
            "LlavaForConditionalGeneration needs equal ones"
        )
    return type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False})


def draft_of(config: PretrainedConfig) -> PreTrainedModel:
    """Build transformers' class on the meta device, which uses no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def names_of(model: PreTrainedModel) -> tuple[str, str, str]:
    """Return the prefix of the base model, and the names of the head and of the embeddings, in transformers' class."""
    names = {id(module): name for name, module in model.named_modules()}
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return f"{model.base_model_prefix}.", f"{names[id(head)]}.weight", f"{names[id(embeddings)]}.weight"


def split_head(tensors: dict, config: PretrainedConfig) -> tuple[dict, torch.Tensor]:
    """Split tensors of our `language_model` into those of the base model, by its own names, and the head.

    A tied head is a copy of the embeddings.

    Raises:
        ConversionError: for a head with a bias, which LLaVA's does not have.
    """
    native = write_text_config(config)
    if isinstance(config, SmolHFTextConfig):
        tensors = DECODERS[native_decoder(config)][1](tensors, config)
    draft = draft_of(native)
    tensors = class_names(draft, tensors)
    prefix, head, embeddings = names_of(draft)
    base = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix) and name != head]
    if others:
        raise ConversionError(f"the language model has {others[0]}: LlavaForConditionalGeneration has no such tensor")
    needed = head if head in tensors else embeddings
    if needed not in tensors:
        raise ConversionError(f"the language model has no tensor {needed}")
    return base, tensors[head] if head in tensors else tensors[embeddings].clone()
