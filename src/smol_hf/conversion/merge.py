"""`smol-hf merge`: an adapter of PEFT and the checkpoint it was trained on become one checkpoint without adapters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smol_hf.auto import AutoModelForCausalLM, AutoTokenizer
from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG as CONFIG
from smol_hf.conversion.checkpoint_files import ADAPTER_WEIGHTS as WEIGHTS
from smol_hf.conversion.checkpoint_files import read_json, read_safetensors, read_weights
from smol_hf.conversion.convert import (
    parameters_per_part,
    refuse_occupied,
    refuse_output_inside,
    write_generation_config,
    written_whole,
)
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.location import locate
from smol_hf.conversion.meta_check import model_of
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.training.model.sound_checkpoint import load_sound, refuse_unsound_config

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def merge(
    adapter: str,
    output: str | Path,
    *,
    base: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> dict:
    """Merge `adapter` (folder or Hub id) into its base, into the folder `output`.

    Args:
        base: folder or Hub id of the checkpoint that the adapter belongs to; by default the one that it names.
        dtype: of the result; by default the base's. The sum is computed in float32 in any case.
        revision: of the adapter; its configuration names the base's own.

    Returns:
        `base`, `source` (folder of the adapter), `adapter` (kind), `output`, `parameters` (per part and `total`),
        `seconds`.

    Raises:
        ConversionError: when one of the two is not there, damaged, or not made for the other. Nothing is written.
        FileExistsError: when `output` holds something already.
    """
    started = time.monotonic()
    output = Path(output)
    refuse_occupied(output)
    fetch = {"token": token, "local_files_only": local_files_only}
    folder = locate(adapter, revision=revision, **fetch)
    config = read_adapter_config(folder)
    base_folder = locate_base(config, base, fetch)
    refuse_output_inside(output, folder, base_folder)
    merged = merge_weights(base_folder, folder, config, dtype)
    is_vlm = merged.config.model_type == SmolHFConfig.model_type
    needed = "processor_config.json" if is_vlm else "tokenizer_config.json"
    # PEFT alone saves no processor, though there may be a tokenizer.
    texts = next((each for each in (folder, base_folder) if (each / needed).is_file()), None)
    with written_whole(output) as incomplete:
        merged.save_pretrained(incomplete)
        if texts is not None:
            reader = SmolHFProcessor if is_vlm else AutoTokenizer
            reader.from_pretrained(texts, trust_remote_code=False).save_pretrained(incomplete)
        for source in (base_folder, folder):  # how an adapter's answers end, it may say itself
            write_generation_config(source, incomplete, merged)
    return {
        "base": str(base_folder),
        "source": str(folder),
        "adapter": kind_of(config),
        "output": str(output),
        "parameters": parameters_per_part(merged),
        "seconds": round(time.monotonic() - started, 2),
    }


def merge_weights(base: Path, adapter: Path, config: PeftConfig, dtype: str | None = None):
    """The base with the adapter's updates added to its weights; both are read from their folders."""
    model = read_base(base)
    stored = model.config.dtype
    # A sum in bfloat16 would lose updates that are small beside the weights.
    adapted = load_adapter(model.float(), adapter, config)
    refuse_tied(adapted)
    return adapted.merge_and_unload().to(getattr(torch, dtype) if dtype else stored)


def read_base(folder: Path):
    """The model of a folder of ours, name by name: nothing is left to chance that its files lack. Or a language model
    of transformers."""
    config_json = read_json(folder / "config.json")
    refuse_unsound_config(config_json, folder)
    model_type = config_json.get("model_type")
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "vision_config" not in config_json:
        return load_sound(AutoModelForCausalLM, folder, dtype="auto")
    if model_type not in OURS:
        raise ConversionError(f"{folder} is a {model_type} model: convert it first (smol-hf convert)")
    is_vlm = model_type == SmolHFConfig.model_type
    model_class = SmolHFForConditionalGeneration if is_vlm else SmolHFForCausalLM
    return model_of(model_class, model_class.config_class.from_dict(config_json), read_weights(folder))


def refuse_tied(adapted: PeftModel) -> None:
    """Raises ConversionError for updates of one of two tensors that are one: merged, both would change."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not adapted.config.get_text_config().tie_word_embeddings:
        return
    for name, module in (("embeddings", adapted.get_input_embeddings()), ("head", adapted.get_output_embeddings())):
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            raise ConversionError(
                f"the adapter changes the {name}, which the base shares between embeddings and head: merged, both "
                "would change. Untie them in the base, and train the adapter on that"
            )


def load_adapter(model, folder: Path, config: PeftConfig) -> PeftModel:
    """The model with the folder's adapter over it; every tensor of the file has its place, and every place a tensor.

    Raises:
        ConversionError: where that is not so, or the file is damaged.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    tensors = read_safetensors(folder / WEIGHTS)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ConversionError(f"{folder}: this adapter does not fit the model: {error}") from error
    places = {name: tensor.shape for name, tensor in get_peft_model_state_dict(adapted).items()}
    for name in sorted({*places, *tensors}):
        if name not in tensors:
            raise ConversionError(f"{folder / WEIGHTS}: {name} is missing")
        if name not in places:
            raise ConversionError(f"{folder / WEIGHTS}: the model has no place for {name}")
        if tensors[name].shape != places[name]:
            theirs, ours = tuple(tensors[name].shape), tuple(places[name])
            raise ConversionError(f"{folder / WEIGHTS}: {name} is {theirs}, but the model needs {ours}")
        if not tensors[name].is_floating_point():
            raise ConversionError(f"{folder / WEIGHTS}: {name} holds {tensors[name].dtype}, not real numbers")
        if not torch.isfinite(tensors[name].float()).all():
            raise ConversionError(f"{folder / WEIGHTS}: {name} is not finite")
    set_peft_model_state_dict(adapted, tensors)
    return adapted


def read_adapter_config(folder: Path) -> PeftConfig:
    from peft import PeftConfig

    if not (folder / CONFIG).is_file():
        raise ConversionError(f"{folder}: no {CONFIG}, so it is no adapter of PEFT")
    if not (folder / WEIGHTS).is_file():
        raise ConversionError(f"{folder}: {WEIGHTS} is missing")
    if read_json(folder / CONFIG).get("peft_type") != "LORA":
        raise ConversionError(f"{folder / CONFIG}: only LoRA and DoRA adapters can be merged")
    try:
        return PeftConfig.from_pretrained(folder)
    except (TypeError, ValueError, KeyError) as error:
        raise ConversionError(f"{folder / CONFIG}: not readable as an adapter's configuration: {error}") from error


def locate_base(config: PeftConfig, base: str | None, fetch: dict) -> Path:
    named = base or config.base_model_name_or_path
    if not named:
        raise ConversionError("the adapter does not name its base: give --base")
    try:
        return locate(named, revision=None if base else config.revision, **fetch)
    except ConversionError as error:
        raise ConversionError(f"the base of this adapter: {error}. --base says where it is") from error


def kind_of(config: PeftConfig) -> str:
    return f"{'DoRA' if config.use_dora else 'LoRA'} of rank {config.r}"
