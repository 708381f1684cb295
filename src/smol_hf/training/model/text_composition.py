"""A recipe's model keys → a text-only model and its tokenizer: loaded, or with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.support.formatting import nearest
from smol_hf.text.tokenizer_training import train_text_tokenizer
from smol_hf.training.model.chat_template import add_embeddings, end_with_turns, prepare_tokenizer
from smol_hf.training.model.lora import quantization_config
from smol_hf.training.model.presets import TEXT
from smol_hf.training.model.sound_checkpoint import configuration_errors, load_sound, refuse_unsound_config
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

DEFAULT_VOCABULARY = 8192  # of a tokenizer trained on documents, if nothing names a size
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def build_language_model(
    arguments: ModelArguments, texts: Iterable[str], *, chat: bool = False, trust_remote_code: bool = False
):
    """Return (model, tokenizer) in `arguments.dtype`: loaded, or built from the other keys. Raises RecipeError.

    Args:
        chat: whether the model learns from conversations, so that a turn ends what it writes.
    """
    config, tokenizer, added = build_text_config_and_tokenizer(
        arguments, texts, chat=chat, trust_remote_code=trust_remote_code
    )
    if arguments.model is not None:
        model = load_model(AutoModelForCausalLM, arguments, config, trust_remote_code)
        add_embeddings(model, tokenizer, added)
        if chat:
            end_with_turns(model, tokenizer)
        return model, tokenizer
    attention = arguments.attn_implementation
    if isinstance(config, SmolHFTextConfig):
        model = SmolHFForCausalLM._from_config(config, attn_implementation=attention)
    else:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    end_with_text(model.to(getattr(torch, arguments.dtype)), tokenizer)
    return model, tokenizer


def load_model(auto_class, arguments: ModelArguments, config: PretrainedConfig, trust_remote_code: bool):
    """Load `arguments.model`. Raises RecipeError for a wrong configuration, missing tensors and NaN."""
    assert arguments.model is not None
    dtype, attention = getattr(torch, arguments.dtype), arguments.attn_implementation
    if attention == "flex_attention" and hasattr(config, "vision_config"):  # an image encoder has no mask to skip
        attention = {"text_config": attention}
    with configuration_errors(arguments.model, config):
        return load_sound(
            auto_class,
            arguments.model,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            quantization_config=quantization_config(arguments, dtype),
        )


def read_config(model: str, trust_remote_code: bool) -> PretrainedConfig:
    """Read the configuration of a checkpoint. Raises UnsoundCheckpointError for an unusable value."""
    with configuration_errors(model, PretrainedConfig.get_config_dict(model)[0]):
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    refuse_unsound_config(config, model)
    return config


def build_text_config_and_tokenizer(
    arguments: ModelArguments, texts: Iterable[str], *, chat: bool = False, trust_remote_code: bool = False
):
    """Return (configuration, tokenizer, tokens of the chat template that the tokenizer lacked), without weights."""
    if arguments.model is not None:
        config = read_config(arguments.model, trust_remote_code)
        change_positions(config, arguments)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=trust_remote_code)
        check_vocabulary(config.get_text_config().vocab_size, tokenizer, f"the model {arguments.model}")
        return config, tokenizer, prepare_tokenizer(tokenizer, arguments, chat)
    text_config = {**TEXT.get(arguments.preset or "", {}), **(arguments.text_config or {})}
    check_keys("text_config", text_config, SmolHFTextConfig.model_type)
    if arguments.tokenizer is not None:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer, trust_remote_code=trust_remote_code)
    else:
        size = arguments.tokenizer_vocab_size or text_config.get("vocab_size") or DEFAULT_VOCABULARY
        tokenizer = train_text_tokenizer(texts, vocab_size=size)
    added = prepare_tokenizer(tokenizer, arguments, chat)
    return new_text_config(text_config, tokenizer), tokenizer, added


def new_text_config(text_config: dict, tokenizer) -> PretrainedConfig:
    """Return the configuration with the tokenizer's special tokens and, by default, its vocabulary size."""
    text_config = dict(text_config)
    refuse_unsound_config(text_config, "text_config")
    model_type = text_config.pop("model_type", SmolHFTextConfig.model_type)
    text_config.setdefault("vocab_size", len(tokenizer))
    check_vocabulary(text_config["vocab_size"], tokenizer, "text_config")
    for name in SPECIAL_IDS:
        text_config.setdefault(name, getattr(tokenizer, name))
    try:
        return config_class_of("text_config", model_type)(**text_config)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise RecipeError(f"this model cannot be built: {' '.join(str(error).split())}") from error


def change_positions(config: PretrainedConfig, arguments: ModelArguments) -> None:
    """Change the positions of a loaded model, for longer texts. Raises RecipeError if it cannot."""
    text = config.get_text_config()
    learned = getattr(text, "position_embedding_type", "") == "learned"
    if arguments.rope_theta is not None:
        if learned or not getattr(text, "rope_parameters", None):
            raise RecipeError(f"rope_theta: {arguments.model} has no rotary positions")
        text.rope_parameters = {**text.rope_parameters, "rope_theta": arguments.rope_theta}
    if arguments.max_position_embeddings is not None:
        if learned or getattr(text, "rope_parameters", None) is None:
            raise RecipeError(f"max_position_embeddings: {arguments.model} has learned positions, which cannot grow")
        text.max_position_embeddings = arguments.max_position_embeddings


def check_vocabulary(vocab_size: int, tokenizer, what: str) -> None:
    """Raise RecipeError if the vocabulary of `what` is smaller than the tokenizer."""
    if vocab_size < len(tokenizer):
        raise RecipeError(
            f"the vocabulary of {what} has {vocab_size:,} tokens, but the tokenizer {len(tokenizer):,}: use the "
            f"model's own tokenizer, or set text_config.vocab_size to {len(tokenizer)} or more for a new model"
        )


def end_with_text(model: PreTrainedModel, tokenizer) -> None:
    """Let generation use the tokenizer's special tokens: it ends at the end of a text."""
    for name in SPECIAL_IDS:
        setattr(model.generation_config, name, getattr(tokenizer, name))


def check_keys(name: str, values: dict | None, model_type: str) -> None:
    """Raise RecipeError for a key that the configuration does not have, or text as the value of a number.

    transformers accepts misspelt keys. `model_type`: of values without one.
    """
    values = {"model_type": model_type, **(values or {})}
    config_class = config_class_of(name, values["model_type"])
    defaults = config_class().to_dict()
    known = {
        *defaults,
        *inspect.signature(config_class.__init__).parameters,
        *(config_class.attribute_map or {}),
        "rope_theta",
        "vision_use_head",
    }
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{name}: unknown key {key!r}{nearest(key, sorted(known))}")
        default = defaults.get(key)
        if isinstance(value, str) and isinstance(default, (int, float)):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise RecipeError(f"{name}.{key} is {value!r}: it must be {kind}")


def config_class_of(name: str, model_type: str) -> type[PretrainedConfig]:
    """Return the configuration class of a model_type. Raises RecipeError for an unknown one."""
    if model_type == SmolHFTextConfig.model_type:
        return SmolHFTextConfig
    if model_type not in CONFIG_MAPPING:
        raise RecipeError(f"{name}: unknown model_type {model_type!r}{nearest(model_type, list(CONFIG_MAPPING))}")
    return CONFIG_MAPPING[model_type]
