"""`smol-hf merge`: merge an adapter of PEFT into its base, or the shards of a training checkpoint into a model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smol_hf.auto import AutoModelForCausalLM, AutoTokenizer
from smol_hf.conversion.checkpoint_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    is_adapter,
    locate,
    read_json,
    read_safetensors,
    read_weights,
)
from smol_hf.conversion.convert import atomic_output, check_output, parameters_per_part, write_generation_config
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import compare_tensors, model_of
from smol_hf.conversion.sharded import has_shards, model_of_shards, read_shards, refuse_changed
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.training.checkpoint.checkpoints import list_checkpoints
from smol_hf.training.model.sound_checkpoint import load_sound, nonfinite, refuse_unsound_config

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


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
    """Merge `adapter` (folder or Hub id) into its base, into the folder `output`. Or merge the shards of a checkpoint.

    Args:
        adapter: an adapter, or a training checkpoint whose weights FSDP or DeepSpeed wrote in shards.
        base: folder or Hub id of the base; by default the one that the adapter names.
        dtype: of the result; by default the base's. The sum is always computed in float32.
        revision: of the adapter. The adapter's configuration names the revision of its base.

    Returns:
        `base` (None for shards), `source` (folder of the adapter), `adapter` (kind, or "shards"), `output`,
        `parameters` (per part and `total`), `seconds`.

    Raises:
        ConversionError: if adapter or base are missing, damaged, or do not fit together. Nothing is written then.
        FileExistsError: if `output` is not empty.
    """
    started = time.monotonic()
    output = Path(output).expanduser()
    check_output(output)
    fetch = {"token": token, "local_files_only": local_files_only}
    folder = locate(adapter, revision=revision, **fetch)
    if has_shards(folder) or is_adapter(folder):
        refuse_changed(folder)
    with complete_adapter(folder) as adapter_folder:
        if adapter_folder is None:
            sources, kind = [folder], "shards"
            check_output(output, folder)
            merged = model_of_shards(folder)
            merged = merged.to(getattr(torch, dtype)) if dtype else merged
        else:
            config = read_adapter_config(adapter_folder)
            base_folder = locate_base(config, base, fetch)
            check_output(output, folder, base_folder)
            sources, kind = [base_folder, folder], f"{'DoRA' if config.use_dora else 'LoRA'} of rank {config.r}"
            merged = merge_weights(base_folder, adapter_folder, config, dtype)
    is_vlm = merged.config.model_type == SmolHFConfig.model_type
    needed = "processor_config.json" if is_vlm else "tokenizer_config.json"
    # PEFT itself saves no processor, but perhaps a tokenizer.
    texts = next((each for each in reversed(sources) if (each / needed).is_file()), None)
    with atomic_output(output) as incomplete:
        merged.save_pretrained(incomplete)
        if texts is not None:
            reader = SmolHFProcessor if is_vlm else AutoTokenizer
            reader.from_pretrained(texts, trust_remote_code=False).save_pretrained(incomplete)
        for source in sources:  # an adapter may have end tokens of its own
            write_generation_config(source, incomplete)
    return {
        "base": None if kind == "shards" else str(sources[0]),
        "source": str(folder),
        "adapter": kind,
        "output": str(output),
        "parameters": parameters_per_part(merged),
        "seconds": round(time.monotonic() - started, 2),
    }


@contextmanager
def complete_adapter(folder: Path) -> Iterator[Path | None]:
    """Yield a folder with the complete adapter, or None for a model in shards. Raises ConversionError."""
    if not has_shards(folder):
        yield folder
    elif not is_adapter(folder):
        yield None
    else:
        with TemporaryDirectory(prefix="smol_hf_merge_") as place:
            shutil.copyfile(folder / ADAPTER_CONFIG, Path(place, ADAPTER_CONFIG))
            save_file(read_shards(folder), Path(place, ADAPTER_WEIGHTS), metadata={"format": "pt"})
            yield Path(place)


def merge_weights(base: Path, adapter: Path, config: LoraConfig, dtype: str | None = None):
    """Read the base and add the adapter's updates to its weights."""
    model = read_base(base)
    stored = model.config.dtype
    # A sum in bfloat16 would lose updates that are small relative to the weights.
    adapted = load_adapter(model.float(), adapter, config)
    refuse_tied(adapted)
    return adapted.merge_and_unload().to(getattr(torch, dtype) if dtype else stored)


def read_base(folder: Path):
    """Read our model, or a language model of transformers. A missing tensor is an error."""
    config_json = read_json(folder / "config.json")
    refuse_unsound_config(config_json, folder)
    model_type = config_json.get("model_type")
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "vision_config" not in config_json:
        return load_sound(AutoModelForCausalLM, folder, dtype="auto")
    if model_type not in OURS:
        raise ConversionError(f"{folder} is a {model_type} model: convert it first (smol-hf convert)")
    config_class, model_class = OURS[model_type]
    return model_of(model_class, config_class.from_dict(config_json), read_weights(folder))


def refuse_tied(adapted: PeftModel) -> None:
    """Raise ConversionError if the adapter changes tied embeddings or their head: merged, both would change."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not adapted.config.get_text_config().tie_word_embeddings:
        return
    for name, module in (("embeddings", adapted.get_input_embeddings()), ("head", adapted.get_output_embeddings())):
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            raise ConversionError(
                f"the adapter changes the {name}, but the base ties embeddings and head: merged, both would change. "
                "Untie them in the base, and train the adapter on that"
            )


def load_adapter(model, folder: Path, config: LoraConfig) -> PeftModel:
    """Load the folder's adapter into the model. Raise ConversionError for missing, unknown or damaged tensors."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / ADAPTER_WEIGHTS
    tensors = read_safetensors(path)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ConversionError(f"{folder}: the adapter does not fit the model: {error}") from error
    compare_tensors(get_peft_model_state_dict(adapted), tensors, f"the adapter {folder}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ConversionError(f"{path}: {name} has dtype {tensor.dtype}, but must be floating point")
    if broken := nonfinite(tensors.items()):
        raise ConversionError(f"{path}: {broken[0]} contains NaN or infinity")
    set_peft_model_state_dict(adapted, tensors)
    return adapted


def read_adapter_config(folder: Path) -> LoraConfig:
    from peft import LoraConfig

    path = folder / ADAPTER_CONFIG
    if not is_adapter(folder):
        complete = any(folder.glob("model*.safetensors"))
        missing = f"{ADAPTER_CONFIG} is missing{folder_meant(folder)}"
        why = "its weights are complete, so it needs no merge" if complete else missing
        raise ConversionError(f"{folder} is not an adapter of PEFT: {why}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ConversionError(f"{folder}: {ADAPTER_WEIGHTS} is missing")
    if read_json(path).get("peft_type") != "LORA":
        raise ConversionError(f"{path}: only LoRA and DoRA adapters can be merged")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise ConversionError(f"{path}: invalid configuration of an adapter: {error}") from error
    assert isinstance(config, LoraConfig)  # since its peft_type is LORA
    return config


def folder_meant(folder: Path) -> str:
    """Return advice for the output folder of a run; "" for another folder."""
    for inside in (folder / "checkpoint", folder / "adapter", *list_checkpoints(folder)):
        if is_adapter(inside) or has_shards(inside):
            return f"; did you mean {inside}?"
        if (inside / "config.json").is_file():
            return f"; it is the output folder of a run, whose model in {inside} is complete and needs no merge"
    return ""


def locate_base(config: LoraConfig, base: str | None, fetch: dict) -> Path:
    named = base or config.base_model_name_or_path
    if not named:
        raise ConversionError("the adapter does not name its base: give --base to smol-hf merge")
    try:
        return locate(named, revision=None if base else config.revision, **fetch)
    except ConversionError as error:
        raise ConversionError(f"the base of this adapter: {error}. Give its folder or Hub id with --base") from error
