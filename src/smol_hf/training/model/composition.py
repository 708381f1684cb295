"""A recipe's model keys → a model and its processor: loaded, or put together from parts with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AddedToken, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.auto import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from smol_hf.data.conversation import Conversation, TextPart
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.sub_configs import DEFAULT_VISION_CONFIG
from smol_hf.processing.chat_format import END_OF_UTTERANCE_TOKEN, IMAGE_TOKEN, image_tokens
from smol_hf.processing.chat_messages import EXAMPLE
from smol_hf.processing.chat_rendering import ChatTemplateError
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer
from smol_hf.training.model.config_keys import check_keys
from smol_hf.training.model.presets import TEXT, TILING, VISION, preset_config
from smol_hf.training.model.sound_checkpoint import refuse_unsound_config
from smol_hf.training.model.text_composition import (
    build_language_model,
    build_text_config_and_tokenizer,
    change_positions,
    load_whole,
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
    """Load `arguments.model`, or build what the other keys describe, in `arguments.dtype`. A language model alone has
    its tokenizer for a processor.

    Args:
        texts: what a tokenizer is trained on when the recipe names none.
        documents: whether the model reads documents, so that it is a language model alone.

    Raises:
        RecipeError: for keys that do not exist or do not fit together.
    """
    if is_text_alone(arguments, documents, trust_remote_code):
        return build_language_model(arguments, texts, chat=not documents, trust_remote_code=trust_remote_code)
    config, processor = build_config_and_processor(arguments, texts, trust_remote_code=trust_remote_code)
    if arguments.model is not None:
        return load_whole(AutoModelForImageTextToText, arguments, config, trust_remote_code), processor
    config.text_config._attn_implementation = arguments.attn_implementation
    model = SmolHFForConditionalGeneration(config).to(getattr(torch, arguments.dtype))
    prepare_generation(model, processor)
    return model, processor


def is_text_alone(arguments: ModelArguments, documents: bool, trust_remote_code: bool) -> bool:
    """Whether the recipe's model is a language model alone. Raises RecipeError where it cannot read documents."""
    if arguments.model is not None:
        config = read_config(arguments.model, trust_remote_code)
        sees = getattr(config, "vision_config", None) is not None
        name = arguments.model
    elif arguments.preset is not None:
        preset_config(arguments.preset)
        sees, name = arguments.preset not in TEXT or arguments.vision_config is not None, f"preset {arguments.preset}"
    else:
        sees, name = not documents or arguments.vision_config is not None, "a model with vision_config"
    if sees and documents:
        raise RecipeError(
            f"documents train a language model alone, and {name} sees pictures: choose a preset of {', '.join(TEXT)}, "
            "text_config, or the checkpoint of a language model"
        )
    if arguments.chat_template is not None and (sees or documents):
        what = f"{name} sees pictures, and its processor has a template" if sees else "documents are not written by it"
        raise RecipeError(f"chat_template is for conversations with a language model alone: {what}")
    return not sees


def build_config_and_processor(
    arguments: ModelArguments, texts: Iterable[str], *, documents: bool = False, trust_remote_code: bool = False
) -> tuple[PretrainedConfig, SmolHFProcessor | PreTrainedTokenizerBase]:
    """What `build_model_and_processor` begins with: all that decides about tokens and tiles, and no weights.

    Raises:
        RecipeError: for keys that do not exist or do not fit together.
    """
    if is_text_alone(arguments, documents, trust_remote_code):
        return build_text_config_and_tokenizer(
            arguments, texts, chat=not documents, trust_remote_code=trust_remote_code
        )[:2]
    if arguments.model is not None:
        processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=trust_remote_code)
        config = read_config(arguments.model, trust_remote_code)
        if not hasattr(processor, "encode_text"):
            kind = type(processor).__name__
            raise RecipeError(f"{arguments.model} has a {kind}: convert it first (smol-hf convert)")
        cut_pictures_anew(processor, arguments)
        check_labels(processor, arguments.model)
        change_positions(config, arguments)
        return config, processor
    if arguments.preset is not None:
        arguments = with_preset(arguments)
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
    """The arguments with the preset's values where the recipe has none of its own; mappings are merged.

    Raises:
        RecipeError: for a name that is none.
    """
    preset_config(arguments.preset)
    settings = VISION.get(arguments.preset) or {"text_config": TEXT[arguments.preset]}
    settings = {**settings, **TILING.get(arguments.preset, {})}
    values = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            values[name] = {**value, **(getattr(arguments, name) or {})}
        elif (known := ModelArguments.__dataclass_fields__.get(name)) and getattr(arguments, name) == known.default:
            values[name] = value
    return replace(arguments, **values)


def cut_pictures_anew(processor: SmolHFProcessor, arguments: ModelArguments) -> None:
    """Give a loaded processor the recipe's `longest_edge`. Raises RecipeError where its tokenizer lacks the tiles."""
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
    """Raises RecipeError for a chat template of which it cannot be known what the assistant generates."""
    try:
        processor.encode_text(EXAMPLE, [])
        _ = processor.renderer().end_of_turn  # raises where nothing that is generated ends an answer
    except ChatTemplateError as error:
        raise RecipeError(f"{name} cannot be trained on conversations: {error}") from error


def texts_of(conversations: Iterable[Conversation]) -> Iterator[str]:
    """The texts that a tokenizer for these conversations is trained on: the beginning of each, and not more than
    `ALL_CHARACTERS` together."""
    left = ALL_CHARACTERS
    for conversation in conversations:
        for message in conversation.messages:
            yield f"{message.role.title()}:"  # as the template writes it
            for part in message.parts:
                if isinstance(part, TextPart):
                    yield part.text[:TEXT_CHARACTERS]
                    left -= len(part.text[:TEXT_CHARACTERS])
        if left <= 0:
            return


def build_tokenizer(arguments: ModelArguments, texts: Iterable[str], trust_remote_code: bool):
    """The named tokenizer, given the tokens that images need; or a small one trained on the texts."""
    if arguments.tokenizer is None:
        return build_tiny_tokenizer(texts, vocab_size=arguments.tokenizer_vocab_size or SMALL_VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer, trust_remote_code=trust_remote_code)
    side = (arguments.vision_config or DEFAULT_VISION_CONFIG).get("image_size", DEFAULT_VISION_CONFIG["image_size"])
    grid = ImageTiler(side, arguments.longest_edge or side, arguments.do_image_splitting).max_tiles_per_side
    extend_tokenizer(tokenizer, grid)
    return tokenizer


def extend_tokenizer(tokenizer, max_tiles_per_side: int, *, keeps_tokens: bool = False) -> int:
    """Add the tokens that images and SmolVLM's chat template need at its end, and return the number of tokens before.

    Args:
        keeps_tokens: leave its start and end tokens; else they become SmolVLM's.
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
        tokenizer.eos_token = END_OF_UTTERANCE_TOKEN
        tokenizer.bos_token = "<|im_start|>"
    return size


def build_config(arguments: ModelArguments, tokenizer) -> SmolHFConfig:
    """The configuration of the described model, its special tokens and vocabulary size from the tokenizer."""
    vision_config = dict(arguments.vision_config or DEFAULT_VISION_CONFIG)
    text_config = dict(arguments.text_config or {})
    refuse_unsound_config({"vision_config": vision_config, "text_config": text_config}, "the recipe")
    vision_config.setdefault("model_type", DEFAULT_VISION_CONFIG["model_type"])
    text_config.setdefault("model_type", SmolHFTextConfig.model_type)
    check_keys("vision_config", vision_config)
    check_keys("text_config", text_config)
    vocab_size = text_config.setdefault("vocab_size", len(tokenizer))
    if vocab_size < len(tokenizer):
        raise RecipeError(f"text_config.vocab_size is {vocab_size}, but the tokenizer has {len(tokenizer)} tokens")
    text_config |= {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    try:
        return SmolHFConfig(
            text_config=text_config,
            vision_config=vision_config,
            connector_type=arguments.connector_type,
            scale_factor=arguments.scale_factor or 2,
            vision_feature_layer=arguments.vision_feature_layer,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            initializer_range=text_config.get("initializer_range", 0.02),
            image_mean=arguments.image_mean or [0.5] * 3,
            image_std=arguments.image_std or [0.5] * 3,
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise RecipeError(f"this model cannot be built: {' '.join(str(error).split())}") from error


def prepare_generation(model: PreTrainedModel, processor: SmolHFProcessor) -> None:
    """How the model generates by default: it ends with the tokenizer's end token and never writes an image."""
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # so that a batch's answers begin in the same column
    never = [token for token in processor.control_tokens if token != tokenizer.eos_token]
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(never)
