"""Training checkpoints whose weights are in shards, of torch's distributed checkpoint (FSDP) or of DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import merge_fsdp_weights
from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smol_hf.auto import AutoConfig, AutoModelForCausalLM
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError, without_tied_head
from smol_hf.conversion.meta_check import model_of
from smol_hf.support.formatting import one_line

FSDP_SHARDS = f"{FSDP_MODEL_NAME}_0"
DEEPSPEED_SHARDS = "global_step*"


def has_shards(folder: Path) -> bool:
    """Return True for a training checkpoint of FSDP with sharded weights, or of DeepSpeed."""
    return (folder / FSDP_SHARDS).is_dir() or any(path.is_dir() for path in folder.glob(DEEPSPEED_SHARDS))


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Read the complete tensors by name, in the dtype of the training. The files are pickled: only read your own.

    Raises:
        ConversionError: if a shard is missing or damaged, or the package deepspeed is needed.
    """
    try:
        if (folder / FSDP_SHARDS).is_dir():
            with TemporaryDirectory(prefix="smol_hf_merge_") as place:
                merge_fsdp_weights(str(folder / FSDP_SHARDS), place)
                files = sorted(Path(place).glob("*.safetensors"))
                return {name: weight for path in files for name, weight in load_file(path).items()}
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(folder))
    except ImportError as error:
        raise ConversionError(f"{folder} has weights of DeepSpeed: install deepspeed to read them") from error
    except (Exception, CheckpointException) as error:  # torch raises many kinds for a damaged shard
        raise ConversionError(f"{folder}: the shards of the weights cannot be read: {one_line(error)}") from error


def model_of_shards(folder: Path):
    """Build the model of a sharded checkpoint, to be saved. Raises ConversionError, see `read_shards`."""
    values = read_json(folder / "config.json")
    config = AutoConfig.from_pretrained(folder)
    tensors = read_shards(folder)
    if values.get("model_type") in OURS:
        return model_of(OURS[values["model_type"]][1], config, without_tied_head(tensors, config))
    if values.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConversionError(f"{folder} is a {values.get('model_type')} model, which smol_hf does not train")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    return model
