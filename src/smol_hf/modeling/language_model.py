"""The language model inside a vision-language model: ours, or any causal LM of transformers."""

from transformers import AutoModelForCausalLM

from .compatibility import CACHE_NAME, forward_arguments
from .configuration_smol_hf_text import SmolHFTextConfig
from .modeling_smol_hf_text import SmolHFForCausalLM


def build_language_model(config):
    """Our decoder, or any causal LM of transformers: whole, so that its head's caps and scalings stay in force.

    Raises:
        ValueError: for a model that cannot take embeddings, positions and transformers' cache (Mamba, RWKV, BLOOM).
    """
    if config.model_type == SmolHFTextConfig.model_type:  # by name: remote code may hold two copies of the class
        return SmolHFForCausalLM._from_config(config)
    model = AutoModelForCausalLM.from_config(config)
    arguments = forward_arguments(model)
    # Most models swallow unknown arguments: packed samples would mix, or a cache be lost, without an error.
    missing = [name for name in ("inputs_embeds", "position_ids", CACHE_NAME) if name not in arguments]
    if missing:
        raise ValueError(f"{config.model_type} cannot be the language model: it takes no {', no '.join(missing)}")
    return model
