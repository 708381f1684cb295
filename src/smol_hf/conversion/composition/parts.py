"""Read the image encoder and the language model of a composition from their checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AddedToken, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.auto import AutoModel, AutoModelForCausalLM, AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json, read_weights, weight_files
from smol_hf.conversion.formats import llama
from smol_hf.conversion.formats.processors import VOCABULARIES, has_tokenizer
from smol_hf.conversion.formats.registry import FORMATS, OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import compare_with, model_of
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.modeling.sub_configs import build_sub_config
from smol_hf.modeling.vision import build_vision_model
from smol_hf.support.formatting import counted, one_line
from smol_hf.support.tokenizer_of import token_ids, unknown_texts, unknown_token_id
from smol_hf.training.model.sound_checkpoint import refuse_unsound_config

VISION_TYPES = ("siglip_vision_model", "siglip2_vision_model", "clip_vision_model", "dinov2")
WHOLE_MODELS = {"siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model", "clip": "clip_vision_model"}
VISION_LANGUAGE = ("smolvlm", "idefics3", "llava")
OWN_DECODER = ("llama", "smollm3", "gpt2")  # our decoder computes them exactly


def read_vision(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read an image encoder, or the encoder of a model that contains one (CLIP, SigLIP, our checkpoints).

    Returns:
        The configuration as a dictionary, and the tensors by the names in our `vision_model`.
    """
    config = read_json(folder / "config.json")
    refuse_unsound_config(config, folder)
    model_type = config.get("model_type")
    if model_type == SmolHFConfig.model_type:
        return read_own_vision(folder, config)
    if model_type in WHOLE_MODELS:
        config = {**(config.get("vision_config") or {}), "model_type": WHOLE_MODELS[model_type]}
    elif model_type not in VISION_TYPES:
        raise ConversionError(
            f"{folder}: model_type {model_type!r} is not a supported image encoder; supported are "
            + ", ".join(sorted((*VISION_TYPES, *WHOLE_MODELS, SmolHFConfig.model_type)))
            + (" (convert this model first, with smol-hf convert)" if model_type in VISION_LANGUAGE else "")
        )
    model_type = config["model_type"]
    known = CONFIG_MAPPING[model_type]().to_dict().keys() | {"vision_use_head"}
    config = {name: value for name, value in config.items() if name in known or name == "model_type"}
    if model_type.startswith("siglip"):
        config["vision_use_head"] = False  # the head pools the patches into one vector
    sub_config = build_sub_config(config, {"model_type": model_type})
    with torch.device("meta"):
        model_class = type(AutoModel.from_config(sub_config))
    model = load(model_class, folder, "has damaged or unsafe weights", config=sub_config)
    return config, dict(getattr(model, "vision_model", model).state_dict())


def read_own_vision(folder: Path, config: dict) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read the encoder of our checkpoint, as `read_vision`."""
    prefix = "vision_model."
    tensors = read_weights(folder)
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    vision_config = config.get("vision_config")
    if not isinstance(vision_config, dict) or "model_type" not in vision_config:
        raise ConversionError(f"{folder / 'config.json'}: vision_config must be an object with a model_type")
    with torch.device("meta"):
        encoder = build_vision_model(build_sub_config(vision_config, vision_config))
    compare_with(encoder, found)
    return vision_config, found


def read_text(folder: Path, *, keep_class: bool = False) -> tuple[PreTrainedModel, str | None]:
    """Read a language model: as our decoder if that computes it exactly, else as transformers' class.

    Returns:
        The model, and the reason why our decoder cannot represent it (None if it can, or with `keep_class`).
    """
    config = read_json(folder / "config.json")
    refuse_unsound_config(config, folder)
    model_type = config.get("model_type")
    if model_type == SmolHFTextConfig.model_type:
        config = SmolHFTextConfig.from_dict(config)
        return model_of(SmolHFForCausalLM, config, llama.NAMES.to_ours(read_weights(folder))), None
    if model_type in OURS:
        raise ConversionError(
            f"{folder} is already a vision-language model: give the language model that it was composed of"
        )
    reason = None
    if model_type in OWN_DECODER and not keep_class:
        found = FORMATS[model_type]
        try:
            own = found.read_config(config)
        except ConversionError as error:
            reason = str(error)
        else:
            return model_of(SmolHFForCausalLM, own, found.to_ours(read_weights(folder), own)), None
    problem = "is not a causal language model of transformers"
    return load(AutoModelForCausalLM, folder, problem, trust_remote_code=False), reason


def load(model_class, folder: Path, problem: str, **options) -> PreTrainedModel:
    """Load a model. Raise ConversionError with `problem`, or with a tensor that is missing or has another shape."""
    weight_files(folder)
    try:
        model, loading = model_class.from_pretrained(
            folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (ValueError, OSError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        reason = one_line(error).partition(" Model type should be one of")[0]  # then hundreds of classes follow
        raise ConversionError(f"{folder} {problem}: {reason}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ConversionError(f"{folder}: {counted(len(missing), 'tensor', 'is/are')} missing, first {missing[0]}")
    for name, found, needed in sorted(loading["mismatched_keys"]):
        raise ConversionError(f"{folder}: {name} is {tuple(found)} instead of {tuple(needed)}")
    return model


def end_token_ids(folder: Path, language_model: PreTrainedModel) -> list[int]:
    """List all end tokens of the language model of `folder`."""
    ids = token_ids(getattr(language_model.config, "eos_token_id", None))
    if (folder / "generation_config.json").is_file():
        ids += token_ids(GenerationConfig.from_pretrained(folder).eos_token_id)
    return list(dict.fromkeys(ids))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a language model. Raise ConversionError unless tokens can be appended to it."""
    if not has_tokenizer(folder):
        # transformers would make an empty tokenizer, and all embeddings would be free for new tokens.
        raise ConversionError(f"{folder}: no tokenizer; expected one of {', '.join(VOCABULARIES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ConversionError(f"{folder}: the tokenizer does not load: {error}") from error
    if not tokenizer.is_fast:
        raise ConversionError(f"{folder}: the tokenizer is a slow one; a tokenizer.json is needed")
    last = max(tokenizer.get_vocab().values())
    if last + 1 != len(tokenizer):
        raise ConversionError(
            f"{folder}: the tokenizer's {len(tokenizer)} tokens have ids up to {last}: ids of new tokens are in use"
        )
    return tokenizer


def append_characters(tokenizer: PreTrainedTokenizerBase, characters: str) -> str:
    """Append the characters that the tokenizer does not know, as ordinary tokens, and return them."""
    if characters and unknown_token_id(tokenizer) is None:
        raise ConversionError("--add-characters: this tokenizer can write every text; leave the option out")
    lacking = [each for each in dict.fromkeys(characters) if unknown_texts(tokenizer, each)]
    tokenizer.add_tokens([AddedToken(each, special=False, normalized=False) for each in lacking])
    return "".join(lacking)
