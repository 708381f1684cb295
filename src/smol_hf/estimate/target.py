"""Target of `smol-hf estimate`: a preset, a recipe or a checkpoint, and the requested step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from smol_hf.auto import AutoProcessor
from smol_hf.estimate.traced_step import OPTIMIZERS, StepShape
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.image_tiling import ImageTiler
from smol_hf.support.formatting import nearest
from smol_hf.support.shipped_recipes import shipped_recipes
from smol_hf.training.checkpoint.checkpoints import suggest_checkpoint
from smol_hf.training.data import open_data
from smol_hf.training.document_data import DocumentData
from smol_hf.training.model.composition import build_config_and_processor, texts_of
from smol_hf.training.model.lora import freeze_what_has_no_adapter
from smol_hf.training.model.parts import PARTS
from smol_hf.training.model.presets import PRESETS, TEXT, preset_config
from smol_hf.training.model.text_composition import read_config
from smol_hf.training.recipe.keys import check_values
from smol_hf.training.recipe.model_arguments import LoraArguments, ModelArguments
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError

DTYPES = ("float32", "bfloat16", "float16")
SAMPLED = 1000  # conversations of a recipe's data for its small tokenizer


@dataclass(frozen=True)
class Target:
    """A model to estimate, with the batch of its recipe."""

    name: str
    config: PretrainedConfig
    batch_size: int = 1
    length: int = 1024
    tiler: Any = None  # cuts images as the processor does; None for a text-only model
    gradient_checkpointing: bool = False
    dtype: str = "float32"
    frozen: tuple[str, ...] = ()
    lora: LoraArguments | None = None


def find_target(name: str) -> Target:
    """Resolve a preset, a recipe, or a folder of a checkpoint. Raises RecipeError for any other name."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return target_of_recipe(name)
    if name in PRESETS:
        if name in TEXT:
            return Target(name, preset_config(name))
        config, processor = build_config_and_processor(ModelArguments(preset=name), ())  # as training builds them
        return Target(name, config, tiler=processor.tiler)
    if (path / "config.json").is_file():
        config = read_config(name, trust_remote_code=False)
        if isinstance(config, SmolHFConfig):
            return Target(name, config, tiler=tiler_of(path, config))
        if getattr(config, "vision_config", None) is not None or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise RecipeError(f"{name} is a {config.model_type} model: convert it first (smol-hf convert)")
        return Target(name, config)
    if (path / "adapter_config.json").is_file():
        raise RecipeError(f"{name} is an adapter: name its recipe.yaml, or merge it first (smol-hf merge)")
    if meant := suggest_checkpoint(path):
        raise RecipeError(f"{name} has no config.json{meant}")
    recipes = shipped_recipes()
    if any(name in (recipe, recipe.rpartition("/")[2]) for recipe in recipes):
        return target_of_recipe(name)
    raise RecipeError(
        f"{name} is not a preset, a recipe or a folder of a checkpoint{nearest(name, [*PRESETS, *recipes])} "
        f"(presets: {', '.join(PRESETS)})"
    )


def tiler_of(folder: Path, config: SmolHFConfig):
    """Return the tiler of a checkpoint's processor. Without a processor, an image is one tile."""
    if not (folder / "processor_config.json").is_file():
        return ImageTiler(config.image_side, config.image_side, do_image_splitting=False)
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False).tiler


def target_of_recipe(path: str) -> Target:
    _, model_arguments, data_arguments, arguments = load_arguments(["--config", path, "--output_dir", "unused"])
    lora = model_arguments if model_arguments.use_peft else None
    if lora is not None:
        freeze_what_has_no_adapter(lora, arguments)
    if data_arguments.documents is not None:
        documents = DocumentData.open(data_arguments)
        texts = documents.texts()
    else:
        texts = texts_of(open_data(data_arguments, arguments.seed).conversations(SAMPLED))
    config, processor = build_config_and_processor(
        model_arguments, texts, documents=data_arguments.documents is not None
    )
    return Target(
        path,
        config,
        batch_size=arguments.per_device_train_batch_size,
        length=data_arguments.context_length or 1024,
        tiler=getattr(processor, "tiler", None),
        gradient_checkpointing=arguments.gradient_checkpointing,
        dtype=model_arguments.dtype,
        frozen=tuple(part for part, rate in arguments.part_learning_rates().items() if rate == 0),
        lora=lora,
    )


def resolve(
    name: str,
    batch_size: int | None,
    length: int | None,
    tiles: int | None,
    labelled: int | None,
    dtype: str | None,
    optimizer: str,
    gradient_checkpointing: bool | None,
    lora: dict[str, Any] | None = None,
) -> tuple[Target, StepShape]:
    """Return the target, with its own values replaced by the given ones, and its step. Raises RecipeError."""
    for key, number, least in (("batch_size", batch_size, 1), ("length", length, 2)):
        if number is not None and number < least:
            raise RecipeError(f"{key} is {number}: it must be at least {least}")
    asked: dict[str, Any] = {
        "batch_size": batch_size, "length": length, "dtype": dtype, "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip
    target = replace(find_target(name), **{key: value for key, value in asked.items() if value is not None})
    for key, value, values in (("dtype", target.dtype, DTYPES), ("optimizer", optimizer, OPTIMIZERS)):
        if value not in values:
            raise RecipeError(f"{key} is {value!r}: choose {' or '.join(values)}")
    if lora:
        target = replace(target, **only_adapters(target.config, lora))
    if labelled is not None and not 0 < labelled < target.length:
        raise RecipeError(f"labelled is {labelled}: it must be from 1 to {target.length - 1}")
    if tiles is not None and tiles < 0:
        raise RecipeError(f"tiles is {tiles}: it must be at least 0")
    positions = getattr(target.config.get_text_config(), "max_position_embeddings", target.length)
    target = replace(target, length=min(target.length, positions)) if length is None else target
    if target.length > positions:
        raise RecipeError(f"length {target.length} is more than the {positions} positions of {name}")
    return target, step_shape(target, tiles, labelled)


def step_shape(target: Target, tiles: int | None, labelled: int | None) -> StepShape:
    if not isinstance(target.config, SmolHFConfig):
        if tiles:
            raise RecipeError(f"{target.name} is a text-only model: leave out --tiles")
        return StepShape(target.batch_size, target.length, 0, labelled or target.length - 1)
    tiles = target.batch_size if tiles is None else tiles
    places = tiles * target.config.image_seq_len
    if places > target.batch_size * target.length:
        raise RecipeError(
            f"{tiles} tiles of {target.config.image_seq_len} tokens do not fit {target.batch_size} rows of "
            f"{target.length}: give fewer --tiles or a larger --length"
        )
    text = target.length - -(-places // target.batch_size)
    return StepShape(target.batch_size, target.length, tiles, max(labelled or text - 1, 1))


def only_adapters(config: PretrainedConfig, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a target that trains only adapters."""
    arguments = LoraArguments(use_peft=True, **keys)
    try:
        check_values(arguments)
        arguments.check_lora()
    except ValueError as error:
        raise RecipeError(str(error)) from error
    parts = PARTS if isinstance(config, SmolHFConfig) else ("text",)
    return {"lora": arguments, "frozen": tuple(part for part in parts if part not in arguments.lora_parts)}
