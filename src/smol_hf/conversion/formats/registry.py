"""The formats, and the choice of one for a source or a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    SmolLM3ForCausalLM,
    SmolVLMForConditionalGeneration,
)

from smol_hf.conversion.formats import gpt, llama, llava, nanovlm, smolvlm
from smol_hf.conversion.formats.tensor_names import ConversionError, without_tied_head
from smol_hf.conversion.meta_check import file_names
from smol_hf.conversion.native.language_model import native_decoder
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM


@dataclass(frozen=True)
class Format:
    """A format.

    Args:
        read_config: config.json → our configuration.
        rename: (their tensors by name, our configuration) → our tensors.
        write_config, to_theirs: the other direction; None for a format that is only read.
        native_class: class of transformers that a written checkpoint has.
        to_files: (tensors by the names that this class writes, its configuration) → tensors by other names.
    """

    name: str
    read_config: Callable[[dict], PretrainedConfig]
    rename: Callable[[dict, Any], dict]
    write_config: Callable[[Any], PretrainedConfig] | None = None
    to_theirs: Callable[[dict, Any], dict] | None = None
    native_class: type[PreTrainedModel] = PreTrainedModel
    to_files: Callable[[dict, Any], dict] | None = None

    def to_ours(self, tensors: dict, config: PretrainedConfig) -> dict:
        """Convert their tensors to those of our configuration, which may change: see `without_tied_head`."""
        return without_tied_head(self.rename(tensors, config), config)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a model of `native_class` into `folder`."""
        if self.to_files is None:
            model.save_pretrained(folder)
        else:
            tensors = self.to_files(file_names(model), model.config)
            model.save_pretrained(folder, state_dict=tensors, save_original_format=False)


def by_name(rename: Callable[[dict], dict]) -> Callable[[dict, Any], dict]:
    """Return `rename` with a configuration as second argument, which it does not need."""
    return lambda tensors, config: rename(tensors)


rename = by_name(llama.NAMES.to_ours)
LLAMA = Format("llama", llama.read_llama, rename, llama.write_llama, llama.to_llama, LlamaForCausalLM)
SMOLLM3 = Format("smollm3", llama.read_smollm3, rename, llama.write_smollm3, llama.to_llama, SmolLM3ForCausalLM)
GPT2 = Format("gpt2", gpt.read_gpt2, by_name(gpt.from_gpt2), gpt.write_gpt2, gpt.to_gpt2, GPT2LMHeadModel)
rename = by_name(smolvlm.NAMES.to_ours)
writing = (smolvlm.write_smolvlm, smolvlm.to_smolvlm, SmolVLMForConditionalGeneration)
SMOLVLM = Format("smolvlm", smolvlm.read_smolvlm, rename, *writing)
IDEFICS3 = Format("idefics3", smolvlm.read_smolvlm, rename)
writing = (llava.write_llava, llava.to_llava, LlavaForConditionalGeneration, llava.to_llava_files)
LLAVA = Format("llava", llava.read_llava, llava.from_llava, *writing)
NANOVLM = Format("nanovlm", nanovlm.read_nanovlm, by_name(nanovlm.from_nanovlm))

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
            return SMOLVLM if config.folds_patches else LLAVA
        assert isinstance(config, SmolHFTextConfig)
        return FORMATS[native_decoder(config)]
    written = [name for name, each in FORMATS.items() if each.write_config is not None]
    if to not in written:
        raise ConversionError(f"--to {to}: choose native or one of {', '.join(written)}")
    if (FORMATS[to] in (SMOLVLM, LLAVA)) != is_vlm:
        raise ConversionError(f"--to {to}: the source is a {config.model_type} model")
    return FORMATS[to]
