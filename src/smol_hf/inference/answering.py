"""A checkpoint and questions → answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.merge import is_adapter, load_adapter, locate_base, read_adapter_config
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

DEFAULT_MAX_NEW_TOKENS = 256


def load_checkpoint(checkpoint: str | Path, *, trust_remote_code: bool = False, device: str | None = None):
    """(model, processor) of a folder or Hub id, on `device` (by default the GPU where there is one), for inference.

    Raises:
        OSError: when there is no such checkpoint, or its weights are damaged.
        ValueError: when it cannot be asked: a language model alone, or one whose processor needs what is not here.
    """
    path = Path(checkpoint)
    if not path.is_dir() and (len(path.parts) != 2 or path.parent.is_dir()):
        raise FileNotFoundError(f"there is no checkpoint folder {checkpoint}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if is_adapter(path):
        # Merged, not by transformers' own loading, which leaves out DoRA's magnitudes.
        config = read_adapter_config(path)
        base = AutoModelForImageTextToText.from_pretrained(
            locate_base(config, None, {}), dtype="auto", trust_remote_code=trust_remote_code
        )
        model = load_adapter(base, path, config).merge_and_unload()
        return model.to(device).eval(), AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)
    config = read_json(path / "config.json") if path.is_dir() else {}
    if config.get("model_type") == SmolHFTextConfig.model_type:
        raise ValueError(f"{checkpoint} is a language model without an image encoder: smol-hf compose gives it one")
    try:
        processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the processor of {checkpoint} cannot be loaded here ({reason}). Instead of a native export, ask the "
            "checkpoint that it was made from: its processor needs nothing more"
        ) from error
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype="auto", trust_remote_code=trust_remote_code
        )
    except SafetensorError as error:
        raise OSError(f"the weights of {checkpoint} are damaged or cut off ({error}): fetch them again") from error
    return model.to(device).eval(), processor


def prompt_inputs(processor, conversations: list[list[dict]], device):
    """Chat messages of several conversations → one left-padded batch on the device, ready for `generate`."""
    processor.tokenizer.padding_side = "left"
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(device)


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
        answers += [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]
    return answers
