"""`smol-hf compose`: join an image encoder and a language model of two checkpoints to a vision-language model.

Their weights do not change. The connector between them is new and must be trained.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from smol_hf.conversion.checkpoint_files import locate
from smol_hf.conversion.composition.composed_chat import choose_chat_format
from smol_hf.conversion.composition.composition_check import check_composition
from smol_hf.conversion.composition.parts import (
    append_characters,
    end_token_ids,
    read_text,
    read_tokenizer,
    read_vision,
)
from smol_hf.conversion.convert import atomic_output, check_output, parameters_per_part
from smol_hf.conversion.formats.processors import image_numbers
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import model_of
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.connector import build_connector
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.training.model.composition import extend_tokenizer, prepare_generation, usual_layer
from smol_hf.training.model.new_tokens import embedding_rows, extend_embeddings
from smol_hf.training.model.text_composition import SPECIAL_IDS

LARGEST_SCALE_FACTOR = 4  # SmolVLM2-256M's and -500M's


def compose(
    vision: str,
    text: str,
    output: str | Path,
    *,
    connector: str = "pixel_shuffle",
    scale_factor: int | None = None,
    longest_edge: int | None = None,
    vision_feature_layer: int | None = None,
    keep_text_class: bool = False,
    extend_context: int | None = None,
    rope_theta: float | None = None,
    chat_template: str = "keep",
    add_characters: str = "",
    seed: int = 0,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> dict:
    """Compose a model and its processor from `vision` and `text` (folders or Hub ids) into the folder `output`.

    Args:
        scale_factor: of pixel_shuffle; by default the largest up to 4 that divides the patches of a side.
        longest_edge: by default four tiles with pixel_shuffle (SmolVLM), one with the other connectors (LLaVA). The
            single tile of the other connectors has image_style plain.
        vision_feature_layer: by default -2 for CLIP, as in LLaVA. For other encoders the last layer: after the last
            norm with pixel_shuffle (SmolVLM), before it with the other connectors (LLaVA).
        extend_context: new `max_position_embeddings`.
        add_characters: those that the tokenizer does not know become new tokens.
        chat_template: "keep" the language model's own and add images; "smolvlm"; or the path of a template.

    Returns:
        `output`, `shapes` (of one tile, step by step), `parameters` (per part and `total`), `new_tokens`, `seconds`,
        `chat_template` (a description), `added_characters`, `end_tokens`, `own_class` (why transformers' class was
        kept, or None).

    Raises:
        ConversionError: if the parts do not fit, or compute other results together. Nothing is written then.
        FileExistsError: if `output` is not empty.
    """
    started = time.monotonic()
    output = Path(output).expanduser()
    check_output(output)
    if scale_factor is not None and connector != "pixel_shuffle":
        raise ConversionError(f"--scale-factor is only for pixel_shuffle: {connector} makes one token of each patch")
    for name, number in (("scale-factor", scale_factor), ("longest-edge", longest_edge), ("rope-theta", rope_theta)):
        if number is not None and not 0 < number < math.inf:
            raise ConversionError(f"--{name} is {number}: it must be a number above 0")
    fetch = {"revision": revision, "token": token, "local_files_only": local_files_only}
    vision_folder, text_folder = locate(vision, **fetch), locate(text, **fetch)
    check_output(output, vision_folder, text_folder)
    vision_config, vision_tensors = read_vision(vision_folder)
    language_model, own_class = read_text(text_folder, keep_class=keep_text_class)
    extend_positions(language_model.config, extend_context, rope_theta)

    config = composed_config(
        vision_folder, vision_config, language_model.config, connector, scale_factor, vision_feature_layer
    )
    tile = int(config.image_side)
    longest_edge = longest_edge or (4 * tile if connector == "pixel_shuffle" else tile)
    grid = ImageTiler(tile, longest_edge, longest_edge > tile).max_tiles_per_side
    tokenizer = read_tokenizer(text_folder)
    chat = choose_chat_format(tokenizer, chat_template)
    rows_in_use = len(tokenizer)
    added = append_characters(tokenizer, add_characters)
    extend_tokenizer(tokenizer, grid, keeps_tokens=chat.keeps_tokens)
    processor = SmolHFProcessor(
        tokenizer,
        tile_size=tile,
        image_seq_len=config.image_seq_len,
        longest_edge=longest_edge,
        do_image_splitting=longest_edge > tile,
        image_style="smolvlm" if connector == "pixel_shuffle" or longest_edge > tile else "plain",
        chat_template=chat.template,
    )
    end = tokenizer.convert_tokens_to_ids(chat.end_token)
    ends: list = list(dict.fromkeys([end, *end_token_ids(text_folder, language_model)]))
    vocabulary = max(len(tokenizer), embedding_rows(language_model))
    extend_embeddings(language_model, rows_in_use, vocabulary)
    for name in SPECIAL_IDS:
        for each in (config.text_config, config):
            setattr(each, name, getattr(tokenizer, name))
    config.text_config.vocab_size = vocabulary
    config.image_token_id = processor.image_token_id
    untrained = getattr(language_model.config, "new_tokens", None) or [rows_in_use]  # a converted nanoGPT has some
    config.new_tokens = [untrained[0], len(tokenizer)]  # training/model/new_tokens.py trains these rows in every stage
    model = join_parts(config, vision_tensors, language_model, seed)
    prepare_generation(model, processor)
    end_with(model, tokenizer, ends)
    parameters = parameters_per_part(model)
    change_positions = partial(extend_positions, extend_context=extend_context, rope_theta=rope_theta)
    with atomic_output(output) as incomplete:
        model.save_pretrained(incomplete)
        processor.save_pretrained(incomplete)
        del model, language_model, vision_tensors
        check_composition(incomplete, text_folder, rows_in_use, change_positions)
    return {
        "output": str(output),
        "shapes": shapes_of(config),
        "parameters": parameters,
        "new_tokens": len(tokenizer) - rows_in_use,
        "vocabulary": vocabulary,
        "tile_size": tile,
        "longest_edge": longest_edge,
        "image_tokens_per_tile": config.image_seq_len,
        "chat_template": chat.description,
        "added_characters": added,
        "end_tokens": tokenizer.convert_ids_to_tokens(ends),
        "own_class": own_class,
        "seconds": round(time.monotonic() - started, 2),
    }


def end_with(model: PreTrainedModel, tokenizer, ends: list[int]) -> None:
    """Let generation end with any of `ends` and the tokenizer's own end token, and suppress none of them."""
    ends = list(dict.fromkeys([*ends, tokenizer.eos_token_id]))
    generation = model.generation_config
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    generation.suppress_tokens = [each for each in generation.suppress_tokens if each not in ends]


def composed_config(
    vision_folder: Path,
    vision_config: dict,
    text_config,
    connector: str,
    scale_factor: int | None,
    vision_feature_layer: int | None,
) -> SmolHFConfig:
    layers = vision_config["num_hidden_layers"]
    if vision_feature_layer is None:
        vision_feature_layer = usual_layer(vision_config["model_type"], layers, connector)
    if not -layers - 1 <= vision_feature_layer <= layers:
        raise ConversionError(f"--vision-feature-layer is {vision_feature_layer}: the encoder has {layers} layers")
    mean, std = image_numbers(vision_folder)
    settings = {
        "text_config": text_config,
        "vision_config": vision_config,
        "vision_feature_layer": vision_feature_layer,
        "image_mean": mean,
        "image_std": std,
        "image_token_id": 0,
    }
    try:
        side = SmolHFConfig(**settings, connector_type="linear").patches_per_side
        fitting = [factor for factor in range(1, LARGEST_SCALE_FACTOR + 1) if side % factor == 0]
        return SmolHFConfig(**settings, connector_type=connector, scale_factor=scale_factor or fitting[-1])
    except ValueError as error:
        raise ConversionError(str(error)) from error


def extend_positions(config, extend_context: int | None, rope_theta: float | None) -> None:
    """Change context length and rotary base. Raise ConversionError for learned positions."""
    if extend_context is None and rope_theta is None:
        return
    rotary = getattr(config, "rope_parameters", None)
    learned = getattr(config, "position_embedding_type", "rotary") == "learned"
    if learned or not rotary or any(isinstance(value, dict) for value in rotary.values()):
        raise ConversionError(
            f"{config.model_type} does not have a single rotary base: leave out --extend-context and --rope-theta"
        )
    if extend_context is not None:
        if extend_context < config.max_position_embeddings:
            raise ConversionError(
                f"--extend-context is {extend_context}: it has {config.max_position_embeddings} positions already"
            )
        config.max_position_embeddings = extend_context
    if rope_theta is not None:
        config.rope_parameters = {**rotary, "rope_theta": rope_theta}


def join_parts(
    config: SmolHFConfig, vision_tensors: dict, language_model: PreTrainedModel, seed: int
) -> PreTrainedModel:
    """Join the three parts in the dtype of the language model. The connector's weights are drawn with `seed`."""
    dtype = next(language_model.parameters()).dtype
    torch.manual_seed(seed)
    with torch.device("meta"):
        draft = SmolHFForConditionalGeneration._from_config(config)
    connector = build_connector(config)
    connector.apply(draft._init_weights)
    tied = getattr(draft, "all_tied_weights_keys", None) or {}
    parts = {
        "vision_model": vision_tensors,
        "connector": connector.state_dict(),
        "language_model": language_model.state_dict(),
    }
    tensors = {
        f"{part}.{name}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for part, tensors_of_part in parts.items()
        for name, tensor in tensors_of_part.items()
        if f"{part}.{name}" not in tied
    }
    return model_of(SmolHFForConditionalGeneration, config, tensors)


def shapes_of(config: SmolHFConfig) -> list[str]:
    """Describe the shapes of one tile, step by step."""
    side, patches = config.image_side, config.patches_per_side
    text_hidden = config.text_config.hidden_size
    return [
        f"tile (3, {side}, {side})",
        f"{config.vision_config.model_type} → ({patches * patches}, {config.vision_config.hidden_size})",
        f"{config.connector_type} → ({config.image_seq_len}, {text_hidden})",
        f"{config.text_config.model_type} → logits ({config.text_config.vocab_size})",
    ]
