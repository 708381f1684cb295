"""Which format a source is in, and what reads or writes it."""

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
from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming, settle_head
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

UNCHANGED = Renaming([("model.", "model."), ("lm_head.", "lm_head.")], ignored=[r"\.rotary_emb\.inv_freq$"])


def from_llama(tensors: dict, config: SmolHFTextConfig) -> dict:
    ours = UNCHANGED.to_ours(tensors)
    settle_head(ours, config)
    return ours


def to_llama(tensors: dict, config: SmolHFTextConfig) -> dict:
    return from_llama(tensors, config)


@dataclass(frozen=True)
class Format:
    """`read_config` takes a config.json, `write_config` one of our configurations; `to_ours` and `to_theirs` take
    tensors by name and our configuration."""

    name: str
    read_config: Callable[[dict], PretrainedConfig]
    to_ours: Callable[[dict, Any], dict]
    write_config: Callable[[Any], PretrainedConfig] | None = None
    to_theirs: Callable[[dict, Any], dict] | None = None
    native_class: type[PreTrainedModel] | None = None


LLAMA = Format("llama", llama.read_llama, from_llama, llama.write_llama, to_llama, LlamaForCausalLM)
SMOLLM3 = Format("smollm3", llama.read_smollm3, from_llama, llama.write_smollm3, to_llama, SmolLM3ForCausalLM)
GPT2 = Format("gpt2", gpt.read_gpt2, gpt.from_gpt2, gpt.write_gpt2, gpt.to_gpt2, GPT2LMHeadModel)
SMOLVLM = Format(
    "smolvlm",
    smolvlm.read_smolvlm,
    smolvlm.from_smolvlm,
    smolvlm.write_smolvlm,
    smolvlm.to_smolvlm,
    SmolVLMForConditionalGeneration,
)
IDEFICS3 = Format("idefics3", smolvlm.read_smolvlm, smolvlm.from_smolvlm)
LLAVA = Format("llava", llava.read_llava, llava.from_llava)
NANOVLM = Format("nanovlm", nanovlm.read_nanovlm, nanovlm.from_nanovlm)

FORMATS = {each.name: each for each in (LLAMA, SMOLLM3, GPT2, SMOLVLM, IDEFICS3, LLAVA, NANOVLM)}
OURS = (SmolHFConfig.model_type, SmolHFTextConfig.model_type)


def source_format(config: dict) -> Format | None:
    """The format of a folder with this config.json; None when it is ours.

    Raises:
        ConversionError: for a model type that nothing here reads.
    """
    model_type = config.get("model_type")
    if model_type in OURS:
        return None
    if nanovlm.is_nanovlm(config):
        return NANOVLM
    if model_type in FORMATS:
        return FORMATS[model_type]
    known = ", ".join(sorted(FORMATS))
    raise ConversionError(f"model_type {model_type!r} cannot be converted; known are {known}, and nanoGPT's .pt files")


def native_format(config: PretrainedConfig, to: str) -> Format:
    """The format that `to` names; "native" chooses the one that one of our models fits.

    Raises:
        ConversionError: for a name that cannot be written.
    """
    if to != "native":
        written = [name for name, each in FORMATS.items() if each.write_config is not None]
        if to not in written:
            raise ConversionError(f"--to {to}: choose native or one of {', '.join(written)}")
        if (to == "smolvlm") != (config.model_type == SmolHFConfig.model_type):
            raise ConversionError(f"--to {to}: the source is a {config.model_type} model")
        return FORMATS[to]
    if config.model_type == SmolHFConfig.model_type:
        return SMOLVLM
    if config.position_embedding_type == "learned":
        return GPT2
    return SMOLLM3 if 0 in config.no_rope_layers else LLAMA
