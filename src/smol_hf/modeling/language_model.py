"""The language model inside a vision-language model: our decoder, or any causal language model of transformers."""

from transformers import AutoModelForCausalLM

from .compatibility import CACHE_NAME, forward_arguments
from .configuration_smol_hf_text import SmolHFTextConfig
from .modeling_smol_hf_text import SmolHFForCausalLM


def build_language_model(config):
    """Build the language model with its head: some models scale or cap their logits there.

    Raises:
        ValueError: for a model that cannot take embeddings, positions and transformers' cache (Mamba, RWKV, BLOOM).
    """
    if config.model_type == SmolHFTextConfig.model_type:  # by name: remote code may load the class twice
        return SmolHFForCausalLM._from_config(config)
    model = AutoModelForCausalLM.from_config(config)
    arguments = forward_arguments(model)
    # Most models ignore unknown arguments. Without an error, packed samples would mix or a cache would be lost.
    missing = [name for name in ("inputs_embeds", "position_ids", CACHE_NAME) if name not in arguments]
    if missing:
        raise ValueError(f"{config.model_type} cannot be the language model: it takes no {', no '.join(missing)}")
    return model
