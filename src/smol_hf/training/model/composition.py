"""A recipe's model keys → a model and its processor: loaded, or built with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AddedToken, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.auto import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.data.conversation import DOCUMENT, Conversation, TextPart
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.sub_configs import DEFAULT_VISION_CONFIG, build_sub_config
from smol_hf.processing.chat_format import (
    END_OF_UTTERANCE_TOKEN,
    EXAMPLE,
    IMAGE_TOKEN,
    ChatTemplateError,
    image_tokens,
)
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.support.tokenizer_of import keep_document_tokens
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer
from smol_hf.training.model.presets import TEXT, preset_settings
from smol_hf.training.model.sound_checkpoint import refuse_unsound_config
from smol_hf.training.model.text_composition import (
    SPECIAL_IDS,
    build_language_model,
    build_text_config_and_tokenizer,
    change_positions,
    check_keys,
    check_vocabulary,
    end_with_text,
    load_model,
    read_config,
)
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

TEXT_CHARACTERS = 10_000  # of one text, from which a tokenizer is trained at most
ALL_CHARACTERS = 50_000_000  # of all texts together
SMALL_VOCABULARY = 384  # of a tokenizer that is trained on the data's conversations


def build_model_and_processor(
    arguments: ModelArguments,
    texts: Iterable[str],
    *,
    documents: bool = False,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, SmolHFProcessor | PreTrainedTokenizerBase]:
    """Load `arguments.model`, or build the model of the other keys, in `arguments.dtype`.

    The processor of a text-only model is its tokenizer.

    Args:
        texts: to train a tokenizer on if the recipe names none.
        documents: whether the model reads documents, for which it must be text-only.

    Raises:
        RecipeError: for keys that do not exist or contradict each other.
    """
    if is_text_only(arguments, documents, trust_remote_code):
        return build_language_model(arguments, texts, chat=not documents, trust_remote_code=trust_remote_code)
    config, processor = build_config_and_processor(arguments, texts, trust_remote_code=trust_remote_code)
    if arguments.model is not None:
        return load_model(AutoModelForImageTextToText, arguments, config, trust_remote_code), processor
    assert isinstance(processor, SmolHFProcessor)
    config.text_config._attn_implementation = arguments.attn_implementation
    model = SmolHFForConditionalGeneration(config).to(getattr(torch, arguments.dtype))
    prepare_generation(model, processor)
    return model, processor


def is_text_only(arguments: ModelArguments, documents: bool, trust_remote_code: bool) -> bool:
    """Return True if the recipe's model is text-only. Raises RecipeError if it cannot read the data."""
    if arguments.model is not None:
        config = read_config(arguments.model, trust_remote_code)
        sees = getattr(config, "vision_config", None) is not None
        name = arguments.model
    elif arguments.preset is not None:
        sees = "vision_config" in preset_settings(arguments.preset) or arguments.vision_config is not None
        name = f"preset {arguments.preset}"
    else:
        sees, name = not documents or arguments.vision_config is not None, "a model with vision_config"
    if sees and documents:
        raise RecipeError(
            f"documents train a text-only model, but {name} is a vision-language model: choose a preset of "
            f"{', '.join(TEXT)}, text_config, or the checkpoint of a language model"
        )
    if arguments.chat_template is not None and (sees or documents):
        reason = f"the processor of {name} has its own template" if sees else "documents have no turns"
        raise RecipeError(f"chat_template is for conversations with a text-only model: {reason}; remove the key")
    return not sees


def build_config_and_processor(
    arguments: ModelArguments, texts: Iterable[str], *, documents: bool = False, trust_remote_code: bool = False
) -> tuple[PretrainedConfig, SmolHFProcessor | PreTrainedTokenizerBase]:
    """Build the parts that decide about tokens and tiles, without weights. Raises RecipeError."""
    if is_text_only(arguments, documents, trust_remote_code):
        return build_text_config_and_tokenizer(
            arguments, texts, chat=not documents, trust_remote_code=trust_remote_code
        )[:2]
    if arguments.model is not None:
        processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=trust_remote_code)
        config = read_config(arguments.model, trust_remote_code)
        if not hasattr(processor, "encode_text"):
            kind = type(processor).__name__
            raise RecipeError(f"{arguments.model} has a {kind}: convert it first (smol-hf convert)")
        change_tiling(processor, arguments)
        check_labels(processor, arguments.model)
        change_positions(config, arguments)
        return config, processor
    arguments = with_preset(arguments)
    check_keys("vision_config", arguments.vision_config, DEFAULT_VISION_CONFIG["model_type"])
    check_keys("text_config", arguments.text_config, SmolHFTextConfig.model_type)
    tokenizer = build_tokenizer(arguments, texts, trust_remote_code)
    config = build_config(arguments, tokenizer)
    processor = SmolHFProcessor(
        tokenizer,
        tile_size=config.image_side,
        image_seq_len=config.image_seq_len,
        longest_edge=arguments.longest_edge,
        do_image_splitting=arguments.do_image_splitting,
        enlarge_images=arguments.enlarge_images,
    )
    return config, processor


def with_preset(arguments: ModelArguments) -> ModelArguments:
    """Return the arguments with the preset's values for the missing ones; mappings are merged. Raises RecipeError."""
    settings = {} if arguments.preset is None else preset_settings(arguments.preset)
    values = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            values[name] = {**value, **(getattr(arguments, name) or {})}
        elif (known := ModelArguments.__dataclass_fields__.get(name)) and getattr(arguments, name) == known.default:
            values[name] = value
    return replace(arguments, **values)


def change_tiling(processor: SmolHFProcessor, arguments: ModelArguments) -> None:
    """Give a loaded processor the recipe's tiling. Raises RecipeError if its tokenizer lacks tokens of tiles."""
    if arguments.longest_edge is not None:
        processor.longest_edge = arguments.longest_edge
    if not arguments.do_image_splitting:
        processor.do_image_splitting = False
    if not arguments.enlarge_images:
        processor.enlarge_images = False
    present = processor.tokenizer.get_vocab()
    missing = [token for token in processor.control_tokens if token not in present]
    if missing:
        raise RecipeError(
            f"longest_edge {processor.longest_edge} makes up to {processor.tiler.max_tiles_per_side} tiles of "
            f"{processor.tile_size} pixels per side, but the tokenizer of {arguments.model} has no {missing[0]}"
        )


def check_labels(processor: SmolHFProcessor, name: str) -> None:
    """Raise RecipeError for a chat template whose generated parts cannot be determined."""
    try:
        processor.encode_text(EXAMPLE, [])
        _ = processor.renderer().end_of_turn  # raises if nothing generated ends an answer
    except ChatTemplateError as error:
        raise RecipeError(f"{name} cannot be trained on conversations: {error}") from error


def texts_of(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Yield the texts to train a tokenizer on: the beginning of each, at most `ALL_CHARACTERS` together."""
    left = ALL_CHARACTERS
    for conversation in conversations:
        for message in conversation.messages:
            if message.role != DOCUMENT:
                yield f"{message.role.title()}:"  # as the template writes it
            for part in message.parts:
                if isinstance(part, TextPart):
                    yield part.text[:TEXT_CHARACTERS]
                    left -= len(part.text[:TEXT_CHARACTERS])
        if left <= 0:
            return


def build_tokenizer(arguments: ModelArguments, texts: Iterable[str], trust_remote_code: bool):
    """Return the named tokenizer with the tokens that images need, or a small one trained on the texts."""
    if arguments.tokenizer is None:
        return build_tiny_tokenizer(texts, vocab_size=arguments.tokenizer_vocab_size or SMALL_VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer, trust_remote_code=trust_remote_code)
    side = (arguments.vision_config or DEFAULT_VISION_CONFIG).get("image_size", DEFAULT_VISION_CONFIG["image_size"])
    grid = ImageTiler(side, arguments.longest_edge or side, arguments.do_image_splitting).max_tiles_per_side
    extend_tokenizer(tokenizer, grid)
    return tokenizer


def extend_tokenizer(tokenizer, max_tiles_per_side: int, *, keeps_tokens: bool = False) -> int:
    """Append the tokens of images and of SmolVLM's chat template, and return the number of tokens before.

    Args:
        keeps_tokens: keep the start and end tokens instead of taking SmolVLM's.
    """
    present, size = tokenizer.get_vocab(), len(tokenizer)
    needed = [*([] if keeps_tokens else ["<|im_start|>"]), *image_tokens(max_tiles_per_side)]
    missing = [token for token in needed if token not in present]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            "<|im_end|>" if "<|im_end|>" in present else tokenizer.eos_token or END_OF_UTTERANCE_TOKEN
        )
    if not keeps_tokens:
        keep_document_tokens(tokenizer)
        tokenizer.eos_token = END_OF_UTTERANCE_TOKEN
        tokenizer.bos_token = "<|im_start|>"
    return size


def build_config(arguments: ModelArguments, tokenizer) -> SmolHFConfig:
    """Return the configuration of the model, with special tokens and vocabulary size from the tokenizer."""
    vision_config = dict(arguments.vision_config or DEFAULT_VISION_CONFIG)
    text_config = dict(arguments.text_config or {})
    refuse_unsound_config({"vision_config": vision_config, "text_config": text_config}, "the recipe")
    vision_config.setdefault("model_type", DEFAULT_VISION_CONFIG["model_type"])
    text_config.setdefault("model_type", SmolHFTextConfig.model_type)
    check_vocabulary(text_config.setdefault("vocab_size", len(tokenizer)), tokenizer, "text_config")
    text_config |= {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    layer = arguments.vision_feature_layer
    try:
        if layer is None:
            encoder = build_sub_config(vision_config, vision_config)
            layer = usual_layer(encoder.model_type, encoder.num_hidden_layers, arguments.connector_type)
        return SmolHFConfig(
            text_config=text_config,
            vision_config=vision_config,
            connector_type=arguments.connector_type,
            scale_factor=arguments.scale_factor or 2,
            vision_feature_layer=layer,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            initializer_range=text_config.get("initializer_range", 0.02),
            image_mean=arguments.image_mean or [0.5] * 3,
            image_std=arguments.image_std or [0.5] * 3,
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise RecipeError(f"this model cannot be built: {' '.join(str(error).split())}") from error


def usual_layer(encoder: str, layers: int, connector: str) -> int:
    """Return the default of `vision_feature_layer` for an encoder (its model_type) with this number of layers.

    With linear and mlp it is a layer that LLaVA reads too: before the last norm.
    """
    if encoder == "clip_vision_model":
        return -2
    return -1 if connector == "pixel_shuffle" else layers


def prepare_generation(model: PreTrainedModel, processor: SmolHFProcessor) -> None:
    """Let the model end with the tokenizer's end token by default and never write an image."""
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # so that a batch's answers begin in the same column
    never = [token for token in processor.control_tokens if token != tokenizer.eos_token]
    end_with_text(model, tokenizer)
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(never)
