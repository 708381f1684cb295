"""Adapters by PEFT: parts of a loaded model get low-rank updates, are trained fully, or stay frozen.

LoRA (Hu et al. 2021) keeps a layer's weight W and learns an update B A of rank `lora_r`:
W x + (lora_alpha / lora_r) B A x. DoRA (Liu et al. 2024) learns the length of each row of the sum as well; QLoRA
(Dettmers et al. 2023) keeps W in four bits. The keys are named as in TRL's `ModelConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from smol_hf.support.formatting import nearest
from smol_hf.training.model.parts import PARTS, part_modules
from smol_hf.training.optimizer.muon import MUON
from smol_hf.training.recipe.model_arguments import LoraArguments
from smol_hf.training.recipe.values import RecipeError

LINEAR_LAYERS = (nn.Linear, Conv1D)


def freeze_what_has_no_adapter(arguments: LoraArguments, training_arguments) -> None:
    """Set the learning rate 0 for parts without adapters and without a rate of their own.

    Raises RecipeError for frozen adapters, and for Muon.
    """
    if training_arguments.optim == MUON:
        raise RecipeError(
            "optim muon is not supported with adapters: it orthogonalises the update of a complete matrix, and an "
            "adapter is a product of two matrices. Leave optim out, so that AdamW trains the adapters"
        )
    for part in PARTS:
        key = f"{part}_learning_rate"
        rate = getattr(training_arguments, key)
        if part in arguments.lora_parts and rate == 0:
            raise RecipeError(f"lora_parts gives {part} adapters, but {key} 0 freezes them: remove one of the two")
        if part not in arguments.lora_parts and rate is None:
            setattr(training_arguments, key, 0.0)
    if training_arguments.part_learning_rates()["vision"] == 0 and training_arguments.unfreeze_vision_at_step:
        raise RecipeError(
            "unfreeze_vision_at_step has no effect: the encoder has no adapters. Name vision in lora_parts, or give "
            "vision_learning_rate to train it whole"
        )


def quantization_config(arguments: LoraArguments, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the settings of 4 or 8 bits for the language model. Raises RecipeError without bitsandbytes."""
    if not (arguments.load_in_4bit or arguments.load_in_8bit):
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        key = "load_in_4bit" if arguments.load_in_4bit else "load_in_8bit"
        raise RecipeError(f'{key} needs bitsandbytes: pip install "smol_hf[qlora]"') from error
    return BitsAndBytesConfig(
        load_in_4bit=arguments.load_in_4bit,
        load_in_8bit=arguments.load_in_8bit,
        bnb_4bit_quant_type=arguments.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=arguments.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["vision_model", "connector", "lm_head", "embed_out"],
    )


def rank_warning(model: nn.Module, rank: int) -> str | None:
    """Return a warning about adapters whose rank is above the width of their layer, or None."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    widths = [min(layer.in_features, layer.out_features) for layer in layers if hasattr(layer, "in_features")]
    narrow = [width for width in widths if width < rank]
    if not narrow:
        return None
    return (
        f"warning: lora_r {rank} is more than the width of {len(narrow)} of {len(widths)} layers with adapters (the "
        f"narrowest has {min(narrow)}): a rank above the width costs memory and learns no more"
    )


def linear_layers(model: PreTrainedModel, parts: list[str]) -> list[str]:
    """Return the last names of the linear layers of these parts, without the head."""
    head, modules = model.get_output_embeddings(), part_modules(model)
    return sorted(
        {
            path.rpartition(".")[2]
            for part in parts
            for path, layer in model.get_submodule(modules[part]).named_modules()
            if isinstance(layer, LINEAR_LAYERS) and layer is not head
        }
    )


def lora_config(
    arguments: LoraArguments, model: PreTrainedModel, trained_whole: Sequence[str] = (), tokenizer=None
) -> LoraConfig:
    """Return PEFT's configuration of the adapters. Raises RecipeError for a missing part, layer or token.

    Args:
        trained_whole: trained parts without adapters. They are saved with the adapter.
    """
    modules = part_modules(model)
    for part in arguments.lora_parts:
        if part not in modules:
            raise RecipeError(f"lora_parts: this model has no {part}, only {', '.join(modules)}")
    known = linear_layers(model, arguments.lora_parts)
    chosen = arguments.lora_target_modules or known
    for name in chosen:
        if name not in known:
            raise RecipeError(
                f"lora_target_modules: no linear layer {name!r} in {' and '.join(arguments.lora_parts)}"
                f"{nearest(name, known)} (there are {', '.join(known)})"
            )
    for part in arguments.lora_parts:
        if not set(chosen) & set(linear_layers(model, [part])):
            raise RecipeError(
                f"lora_target_modules: {', '.join(chosen)} are no layers of {part} (which has "
                f"{', '.join(linear_layers(model, [part]))}): name some, or remove {part} from lora_parts"
            )
    inside = "|".join(f"{modules[part]}." if modules[part] else "" for part in arguments.lora_parts)
    names = "|".join(chosen)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        use_dora=arguments.use_dora,
        use_rslora=arguments.use_rslora,
        target_modules=rf"({inside})(.+\.)?({names})",  # matches the whole path of a layer
        exclude_modules=[path_of(model, model.get_output_embeddings())],
        modules_to_save=[modules[part] for part in trained_whole] or None,
        trainable_token_indices=trainable_tokens(arguments.lora_trainable_tokens, model, tokenizer),
    )


def trainable_tokens(tokens: list[str] | None, model: PreTrainedModel, tokenizer) -> dict[str, list[int]] | None:
    """Return the ids of trained tokens by the name of the embeddings. Raises RecipeError for an unknown token."""
    if not tokens:
        return None
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if token not in vocabulary:
            raise RecipeError(f"lora_trainable_tokens: the tokenizer has no {token!r}")
    name = path_of(model, model.get_input_embeddings()).rpartition(".")[2]
    return {name: [vocabulary[token] for token in tokens]}


def path_of(model: PreTrainedModel, wanted: nn.Module | None) -> str:
    return next(path for path, module in model.named_modules() if module is wanted)


def add_adapters(
    model: PreTrainedModel, arguments: LoraArguments, learning_rates: dict[str, float], tokenizer: Any = None
) -> PeftModel:
    """Return the model with new adapters, whose updates are 0, so that its outputs stay the same.

    Tokens that a composition added are trained with adapters of the language model, unless `lora_trainable_tokens`
    names others or none.
    """
    new = getattr(model.config, "new_tokens", None)
    if new and arguments.lora_trainable_tokens is None and "text" in arguments.lora_parts:
        arguments = replace(arguments, lora_trainable_tokens=tokenizer.convert_ids_to_tokens(list(range(*new))))
    whole = [part for part, rate in learning_rates.items() if rate > 0 and part not in arguments.lora_parts]
    return get_peft_model(model, lora_config(arguments, model, whole, tokenizer))
