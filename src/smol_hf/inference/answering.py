"""A checkpoint and questions → answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import BatchEncoding, GenerationConfig, PreTrainedTokenizerBase

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.merge import is_adapter, load_adapter, locate_base, read_adapter_config
from smol_hf.inference.generation import DECODING
from smol_hf.inference.sampling import DEFAULT_MAX_NEW_TOKENS
from smol_hf.inference.text_prompts import chat_ids
from smol_hf.support.tokenizer_of import is_language_model, padding_token_id, tokenizer_of
from smol_hf.training.model.sound_checkpoint import (
    UnsoundCheckpointError,
    configuration_errors,
    load_sound,
    refuse_unsound_config,
)


def load_checkpoint(
    checkpoint: str | Path, *, trust_remote_code: bool = False, device: str | None = None, dtype: str = "auto"
):
    """(model, processor) of a folder or Hub id, on `device` (by default the GPU where there is one), for inference.

    A language model alone comes with its tokenizer instead of a processor.

    Args:
        device: a device of torch, such as `cpu`, `cuda:1` or `mps`.
        dtype: of the weights: `float32`, `bfloat16`, `float16`, or `auto` for the one in which they were saved.

    Raises:
        OSError: when there is no such checkpoint, or its weights are damaged.
        UnsoundCheckpointError: when tensors are missing or not finite, or a size is absurd.
        ValueError: when it cannot be asked: its tokenizer is missing, or its processor needs what is not here. When
            this machine has no such device.
    """
    device = usable_device(device)
    path = Path(checkpoint)
    if not path.is_dir() and (len(path.parts) != 2 or path.parent.is_dir()):
        raise FileNotFoundError(f"there is no checkpoint folder {checkpoint}")
    adapter = read_adapter_config(path) if is_adapter(path) else None
    base = locate_base(adapter, None, {}) if adapter is not None else checkpoint
    values = read_json(Path(base) / "config.json") if Path(base).is_dir() else {}  # says what is wrong in a line
    refuse_unsound_config(values, base)
    with errors_in_a_line(), configuration_errors(base, values):
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    sees_images = getattr(config, "vision_config", None) is not None
    refuse_unsound_config(config, base)
    read_processor = load_processor if sees_images else load_tokenizer
    processor = read_processor(checkpoint, trust_remote_code)
    if (image_processor := getattr(processor, "image_processor", None)) is not None:
        refuse_unsound_config(image_processor.to_dict(), checkpoint)
    auto_class = AutoModelForImageTextToText if sees_images else AutoModelForCausalLM
    with errors_in_a_line(), configuration_errors(base, config):
        model = load_sound(auto_class, base, dtype=dtype, trust_remote_code=trust_remote_code)
    if adapter is not None:
        # Merged, not by transformers' own loading, which leaves out DoRA's magnitudes.
        model = load_adapter(model, path, adapter).merge_and_unload()
        if (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    return model.to(device).eval(), processor


def usable_device(name: str | None) -> torch.device:
    """The device that is named, or else the GPU where there is one. Raises ValueError when it is not available."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # meta has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"the device {name!r} is not available: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """transformers' errors span many lines."""
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
            f"the processor of {checkpoint} cannot be loaded here ({reason}). Instead of a native export, ask the "
            "checkpoint that it was made from: its processor needs nothing more"
        ) from error


def load_tokenizer(checkpoint: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{checkpoint} has no tokenizer that can be loaded; put its files there ({reason})"
        ) from error


def prompt_inputs(processor, conversations: list[list[dict]], device):
    """Chat messages of several conversations → one left-padded batch on the device, ready for `generate`."""
    if is_language_model(processor):
        return left_padded(processor, [chat_ids(processor, messages) for messages in conversations], device)
    processor.tokenizer.padding_side = "left"
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(device)


def left_padded(tokenizer, rows: list[list[int]], device) -> BatchEncoding:
    """Token ids → `input_ids` and `attention_mask` (batch, sequence) whose rows end in the same column."""
    length = max(map(len, rows))
    filling = padding_token_id(tokenizer)
    batch = {
        "input_ids": torch.tensor([[filling] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }
    return BatchEncoding(batch).to(device)


@torch.inference_mode()
def answer(
    model,
    processor,
    conversations: Iterable[list[dict]],
    *,
    batch_size: int = 32,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **generate_arguments,
) -> list[str]:
    """The model's next turn in each conversation (chat messages, images in their parts), greedy by default."""
    conversations = list(conversations)
    answers = []
    generate_arguments = {"do_sample": False, **generate_arguments}
    for start in range(0, len(conversations), batch_size):
        inputs = prompt_inputs(processor, conversations[start : start + batch_size], model.device)
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, **generate_arguments)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in tokenizer_of(processor).batch_decode(new_tokens, **DECODING)]
    return answers
