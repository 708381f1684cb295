"""Load a checkpoint, and encode conversations for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding, GenerationConfig, PreTrainedTokenizerBase

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.conversion.checkpoint_files import is_adapter, read_json
from smol_hf.conversion.merge import load_adapter, locate_base, read_adapter_config
from smol_hf.support.formatting import one_line
from smol_hf.support.tokenizer_of import is_language_model, padding_token_id
from smol_hf.text.chat import TextChat
from smol_hf.training.model.sound_checkpoint import (
    UnsoundCheckpointError,
    configuration_errors,
    load_sound,
    refuse_unsound_config,
)


def is_missing(checkpoint: str | Path) -> bool:
    """Return True for neither a folder nor words of the form of a Hub id."""
    path = Path(checkpoint)
    return not path.is_dir() and (len(path.parts) != 2 or path.parent.is_dir())


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
    if is_missing(path):
        raise FileNotFoundError(f"there is no checkpoint folder {checkpoint}")
    adapter = read_adapter_config(path) if is_adapter(path) else None
    base = locate_base(adapter, None, {}) if adapter is not None else checkpoint
    values = read_json(Path(base) / "config.json") if Path(base).is_dir() else {}
    refuse_unsound_config(values, base)
    with errors_on_one_line(), configuration_errors(base, values):
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    refuse_unsound_config(config, base)
    sees_images = getattr(config, "vision_config", None) is not None
    processor = load_processor(AutoProcessor if sees_images else AutoTokenizer, checkpoint, trust_remote_code)
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
        raise OSError(one_line(error)) from error


def load_processor(auto_class, checkpoint: str | Path, trust_remote_code: bool):
    """Load a processor or a tokenizer. Raise ValueError if it is missing or does not load."""
    try:
        return auto_class.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        what = "processor" if auto_class is AutoProcessor else "tokenizer"
        advice = "add its files to the folder"
        if isinstance(error, ImportError):
            advice = "use the checkpoint of smol_hf, which needs no other package, instead of its native export"
        raise ValueError(f"{checkpoint} has no {what} that loads ({one_line(error)}): {advice}") from error


def prompt_inputs(processor, conversations: list[list[dict]], device):
    """Encode the chat messages of several conversations as one left-padded batch for `generate`."""
    if is_language_model(processor):
        return left_padded(processor, [chat_ids(processor, messages) for messages in conversations], device)
    processor.tokenizer.padding_side = "left"
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(device)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text to be continued, without special tokens. An empty text becomes the start token or the end token.

    Raises:
        ValueError: for an empty text if the tokenizer has neither token.
    """
    ids: list = list(tokenizer(text, split_special_tokens=True)["input_ids"])
    ids = ids or [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if not ids:
        raise ValueError("the prompt is empty, and the tokenizer has no start token: write a prompt")
    return ids


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Encode a conversation and the generation prompt by the tokenizer's chat template.

    User text never becomes a special token.

    Raises:
        ValueError: if the chat template is missing, or refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this language model has no chat template, it only continues text: use smol-hf generate")
    return chat_of(tokenizer, tokenizer.get_chat_template()).prompt_ids(messages)


@lru_cache(maxsize=2)
def chat_of(tokenizer: PreTrainedTokenizerBase, template: str) -> TextChat:
    """Cache the chat of a tokenizer with its current `template`."""
    return TextChat(tokenizer)


def left_padded(tokenizer, rows: list[list[int]], device) -> BatchEncoding:
    """Pad token ids on the left to `input_ids` and `attention_mask` (batch, sequence)."""
    length = max(map(len, rows))
    filling = padding_token_id(tokenizer)
    batch = {
        "input_ids": torch.tensor([[filling] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }
    return BatchEncoding(batch).to(device)
