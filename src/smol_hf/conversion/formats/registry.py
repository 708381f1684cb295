"""The formats, and the choice of one for a source or a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    SmolLM3ForCausalLM,
    SmolVLMForConditionalGeneration,
)

from smol_hf.conversion.formats import gpt, llama, llava, nanovlm, smolvlm
from smol_hf.conversion.formats.tensor_names import ConversionError, without_tied_head
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        read_config: config.json → our configuration.
        rename: their tensors by name → our tensors.
        write_config, to_theirs: the other direction; None for a format that is only read.
        native_class: class of transformers that a written checkpoint has.
    """

    name: str
    read_config: Callable[[dict], PretrainedConfig]
    rename: Callable[[dict], dict]
    write_config: Callable[[Any], PretrainedConfig] | None = None
    to_theirs: Callable[[dict, Any], dict] | None = None
    native_class: type[PreTrainedModel] = PreTrainedModel

    def to_ours(self, tensors: dict, config: PretrainedConfig) -> dict:
        """Convert their tensors to those of our configuration, which may change: see `without_tied_head`."""
        return without_tied_head(self.rename(tensors), config)


rename = llama.NAMES.to_ours
LLAMA = Format("llama", llama.read_llama, rename, llama.write_llama, llama.to_llama, LlamaForCausalLM)
SMOLLM3 = Format("smollm3", llama.read_smollm3, rename, llama.write_smollm3, llama.to_llama, SmolLM3ForCausalLM)
GPT2 = Format("gpt2", gpt.read_gpt2, gpt.from_gpt2, gpt.write_gpt2, gpt.to_gpt2, GPT2LMHeadModel)
SMOLVLM = Format(
    "smolvlm",
    smolvlm.read_smolvlm,
    smolvlm.NAMES.to_ours,
    smolvlm.write_smolvlm,
    smolvlm.to_smolvlm,
    SmolVLMForConditionalGeneration,
)
IDEFICS3 = Format("idefics3", smolvlm.read_smolvlm, smolvlm.NAMES.to_ours)
LLAVA = Format("llava", llava.read_llava, llava.NAMES.to_ours)
NANOVLM = Format("nanovlm", nanovlm.read_nanovlm, nanovlm.from_nanovlm)

FORMATS = {each.name: each for each in (LLAMA, SMOLLM3, GPT2, SMOLVLM, IDEFICS3, LLAVA, NANOVLM)}
# {model_type: (configuration class, model class)} of this package
OURS = {
    SmolHFConfig.model_type: (SmolHFConfig, SmolHFForConditionalGeneration),
    SmolHFTextConfig.model_type: (SmolHFTextConfig, SmolHFForCausalLM),
}


def source_format(config: dict) -> Format:
    """Return the format of a foreign model with this config.json."""
    model_type = config.get("model_type")
    if nanovlm.is_nanovlm(config):
        return NANOVLM
    if model_type in FORMATS:
        return FORMATS[model_type]
    known = ", ".join(sorted(FORMATS))
    raise ConversionError(f"model_type {model_type!r} cannot be converted; supported are {known} and nanoGPT's .pt")


def native_format(config: PretrainedConfig, to: str) -> Format:
    """Return the format named `to`; "native" chooses the one that fits our model."""
    is_vlm = isinstance(config, SmolHFConfig)
    if to == "native":
        if is_vlm:
            return SMOLVLM
        if config.position_embedding_type == "learned":
            return GPT2
        return SMOLLM3 if 0 in config.no_rope_layers else LLAMA
    written = [name for name, each in FORMATS.items() if each.write_config is not None]
    if to not in written:
        raise ConversionError(f"--to {to}: choose native or one of {', '.join(written)}")
    if (to == "smolvlm") != is_vlm:
        raise ConversionError(f"--to {to}: the source is a {config.model_type} model")
    return FORMATS[to]
