"""Load a checkpoint, and encode conversations for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding, GenerationConfig, PreTrainedTokenizerBase

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.conversion.checkpoint_files import is_adapter, read_json
from smol_hf.conversion.merge import load_adapter, locate_base, read_adapter_config
from smol_hf.inference.text_prompts import chat_ids
from smol_hf.support.tokenizer_of import is_language_model, padding_token_id
from smol_hf.training.model.sound_checkpoint import (
    UnsoundCheckpointError,
    configuration_errors,
    load_sound,
    refuse_unsound_config,
)


def load_checkpoint(
    checkpoint: str | Path, *, trust_remote_code: bool = False, device: str | None = None, dtype: str = "auto"
):
    """Load (model, processor) of a folder or Hub id for inference. A text-only model has a tokenizer as its processor.

    Args:
        device: a device of torch, such as `cpu`, `cuda:1` or `mps`; by default the GPU if available.
        dtype: of the weights: `float32`, `bfloat16`, `float16`, or `auto` for the saved dtype.

    Raises:
        OSError: if the checkpoint is missing, or its weights are damaged.
        UnsoundCheckpointError: if tensors are missing or not finite, or a size is absurd.
        ValueError: if the tokenizer is missing, the processor needs a missing package, or the device is unavailable.
    """
    torch_device = usable_device(device)
    path = Path(checkpoint)
    if not path.is_dir() and (len(path.parts) != 2 or path.parent.is_dir()):
        raise FileNotFoundError(f"there is no checkpoint folder {checkpoint}")
    adapter = read_adapter_config(path) if is_adapter(path) else None
    base = locate_base(adapter, None, {}) if adapter is not None else checkpoint
    values = read_json(Path(base) / "config.json") if Path(base).is_dir() else {}
    refuse_unsound_config(values, base)
    with errors_on_one_line(), configuration_errors(base, values):
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    sees_images = getattr(config, "vision_config", None) is not None
    refuse_unsound_config(config, base)
    read_processor = load_processor if sees_images else load_tokenizer
    processor = read_processor(checkpoint, trust_remote_code)
    if (image_processor := getattr(processor, "image_processor", None)) is not None:
        refuse_unsound_config(image_processor.to_dict(), checkpoint)
    auto_class = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
    with errors_on_one_line(), configuration_errors(base, config):
        model: Any = load_sound(auto_class, base, dtype=dtype, trust_remote_code=trust_remote_code)
    if adapter is not None:
        # transformers' own loading of adapters leaves out DoRA's magnitudes.
        model = load_adapter(model, path, adapter).merge_and_unload()
        if (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    return model.to(torch_device).eval(), processor


def usable_device(name: str | None) -> torch.device:
    """Return the named device, by default the GPU if available. Raise ValueError if the device is unavailable."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # fails on the device "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"the device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """Join the lines of transformers' long error messages."""
    try:
        yield
    except UnsoundCheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise OSError(" ".join(str(error).split())) from error


def load_processor(checkpoint: str | Path, trust_remote_code: bool):
    try:
        return AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the processor of {checkpoint} does not load ({reason}). Use the checkpoint of smol_hf instead of its "
            "native export: its processor needs no other package"
        ) from error


def load_tokenizer(checkpoint: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{checkpoint} has no tokenizer that loads ({reason}): add its files to the folder"
        ) from error


def prompt_inputs(processor, conversations: list[list[dict]], device):
    """Encode the chat messages of several conversations as one left-padded batch for `generate`."""
    if is_language_model(processor):
        return left_padded(processor, [chat_ids(processor, messages) for messages in conversations], device)
    processor.tokenizer.padding_side = "left"
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(device)


def left_padded(tokenizer, rows: list[list[int]], device) -> BatchEncoding:
    """Pad token ids on the left to `input_ids` and `attention_mask` (batch, sequence)."""
    length = max(map(len, rows))
    filling = padding_token_id(tokenizer)
    batch = {
        "input_ids": torch.tensor([[filling] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }
    return BatchEncoding(batch).to(device)
