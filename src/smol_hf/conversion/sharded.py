"""Training checkpoints whose weights are in shards, of torch's distributed checkpoint (FSDP) or of DeepSpeed."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import merge_fsdp_weights
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smol_hf.auto import AutoConfig, AutoModelForCausalLM
from smol_hf.conversion.checkpoint_files import ADAPTER_WEIGHTS, WANTED, read_json
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError, without_tied_head
from smol_hf.conversion.meta_check import model_of
from smol_hf.support.formatting import one_line
from smol_hf.training.checkpoint.checkpoints import (
    MANIFEST,
    WEIGHT_SHARDS,
    CheckpointError,
    read_manifest,
    verify_files,
)
from smol_hf.training.model.sound_checkpoint import configuration_errors

DEEPSPEED_SHARDS = "global_step*"
READ = (*WANTED, ADAPTER_WEIGHTS, f"{WEIGHT_SHARDS}/*", f"{DEEPSPEED_SHARDS}/*", "latest")  # files that a merge reads


def has_shards(folder: Path) -> bool:
    """Return True for a training checkpoint of FSDP with sharded weights, or of DeepSpeed."""
    return (folder / WEIGHT_SHARDS).is_dir() or any(path.is_dir() for path in folder.glob(DEEPSPEED_SHARDS))


def refuse_changed(folder: Path) -> None:
    """Raise ConversionError if a file that a merge reads is missing, or changed after the checkpoint was saved.

    Only a training checkpoint has a manifest.
    """
    if not (folder / MANIFEST).exists():
        return
    folder = folder.resolve()  # the name of "." is empty
    try:
        files = read_manifest(folder)
        read = {name: each for name, each in files.items() if any(fnmatch(name, pattern) for pattern in READ)}
        verify_files(folder, read)
    except CheckpointError as error:
        raise ConversionError(f"{error}: restore it, or merge another checkpoint") from error


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Read the complete tensors by name, in the dtype of the training. The files are pickled: only read your own.

    Raises:
        ConversionError: if a shard is missing or damaged, or the package deepspeed is needed.
    """
    if (folder / WEIGHT_SHARDS).is_dir():
        refuse_cut_off(folder / WEIGHT_SHARDS)
    try:
        if (folder / WEIGHT_SHARDS).is_dir():
            with TemporaryDirectory(prefix="smol_hf_merge_") as place:
                merge_fsdp_weights(str(folder / WEIGHT_SHARDS), place)
                files = sorted(Path(place).glob("*.safetensors"))
                return {name: weight for path in files for name, weight in load_file(path).items()}
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(folder))
    except ImportError as error:
        raise ConversionError(f"{folder} has weights of DeepSpeed: install deepspeed to read them") from error
    except (Exception, CheckpointException) as error:  # torch raises many kinds for a damaged shard
        reason = one_line(first_failure(error))
        raise ConversionError(f"{folder}: a shard of the weights is missing or damaged: {reason}") from error


def refuse_cut_off(shards: Path) -> None:
    """Raise ConversionError if the index of torch's distributed checkpoint cannot be read, or a file is too short.

    torch itself would print tracebacks, and not name the file.
    """
    index, restore = shards / ".metadata", "restore it, or merge another checkpoint"
    try:
        ends: dict[str, int] = {}
        for place in FileSystemReader(shards).read_metadata().storage_data.values():
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
    except FileNotFoundError:
        raise ConversionError(f"{index}, the index of the shards, is missing: {restore}") from None
    except Exception as error:  # of any kind, for bytes that are no pickle, or another one
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConversionError(f"{index}, the index of the shards, is damaged ({reason}): {restore}") from error
    for name, end in sorted(ends.items()):
        path = shards / name
        if not path.is_file():
            raise ConversionError(f"{path}, a shard of the weights, is missing: {restore}")
        if (size := path.stat().st_size) < end:
            raise ConversionError(f"{path}, a shard of the weights, has {size} bytes, not {end}: {restore}")


def first_failure(error: BaseException) -> BaseException:
    """Return the error of the first process, which torch wraps together with its traceback."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    return next((failure for failure, _ in failures.values()), error)


def model_of_shards(folder: Path):
    """Build the model of a sharded checkpoint, to be saved. Raises ConversionError, see `read_shards`."""
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in OURS and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConversionError(f"{folder} is a {model_type} model, which smol_hf does not train")
    with configuration_errors(folder):
        config = AutoConfig.from_pretrained(folder)
    tensors = read_shards(folder)
    if model_type in OURS:
        return model_of(OURS[model_type][1], config, without_tied_head(tensors, config))
    with torch.device("meta"), configuration_errors(folder):
        draft = AutoModelForCausalLM.from_config(config)
    tied = getattr(draft, "all_tied_weights_keys", None) or {}
    return model_of(type(draft), config, {name: weight for name, weight in tensors.items() if name not in tied})
