"""Write a published checkpoint or adapter in one step: weights, processor, model card and recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

import smol_hf.auto  # noqa: F401 (saved models carry their code once it has run)
from smol_hf.processing.plain_tokenizer import write_portable_tokenizer_config
from smol_hf.publishing.loss_plot import plot_losses
from smol_hf.publishing.model_card import is_hub_id, name_of, without_credentials, write_model_card
from smol_hf.support.atomic import atomic_folder
from smol_hf.support.resources import resource_path
from smol_hf.support.tokenizer_of import is_language_model
from smol_hf.training.model.parts import part_modules


def publish_checkpoint(
    folder: str | Path, model, processor, *, recipe: dict | None = None, log: list[dict] | None = None, **card
) -> Path:
    """Write a checkpoint that loads with `trust_remote_code=True` where smol_hf is not installed.

    An interrupted run leaves no incomplete checkpoint, and an earlier one in `folder` is replaced. No file is pickled.

    Args:
        log: of the run; the card shows a plot of its losses.
        card: for the model card, see `write_model_card`.
    """
    folder = Path(folder)
    with atomic_folder(folder, replace=True) as incomplete:
        model.config.use_cache = True
        model.config.get_text_config().use_cache = True
        save(incomplete, model, processor, recipe)
        if is_language_model(processor) and processor.is_fast:
            write_portable_tokenizer_config(incomplete)
        if log is not None:
            plot_losses(incomplete, log)
        modules = {part: model.get_submodule(path) for part, path in part_modules(model).items()} | {"total": model}
        write_model_card(
            incomplete,
            model_name=run_name(folder, recipe),
            config=model.config,
            parameters={part: sum(each.numel() for each in module.parameters()) for part, module in modules.items()},
            recipe=recipe,
            **card,
        )
    return folder


def publish_adapter(
    folder: str | Path, model, processor, *, recipe: dict, versions: dict[str, str], tensors: dict | None = None,
    **facts: Any,
) -> Path:  # fmt: skip
    """Write the adapter of a `PeftModel` in one step; an earlier one in `folder` is replaced.

    Args:
        tensors: of the complete model by name, if the model has only parts of them.
        facts: `training`, `data_description` and `datasets` for the card, see `run_facts`.
    """
    folder = Path(folder)
    with atomic_folder(folder, replace=True) as incomplete:
        save(incomplete, model, processor, recipe, tensors)
        model.generation_config.save_pretrained(incomplete)  # its end tokens may differ from the base
        config = model.peft_config[model.active_adapter]
        base = config.base_model_name_or_path
        has_vision = getattr(model.config, "vision_config", None) is not None
        card = ModelCard.from_template(
            ModelCardData(
                library_name="peft",
                pipeline_tag="image-text-to-text" if has_vision else "text-generation",
                tags=["smol_hf", "lora"],
                datasets=facts.pop("datasets", None),
                base_model=base if is_hub_id(base) else None,
            ),
            template_path=str(resource_path("hub_templates", "adapter_card.md.jinja")),
            has_vision=has_vision,
            name=run_name(folder, recipe),
            kind="DoRA" if config.use_dora else "LoRA",
            rank=config.r,
            base=base,
            quoted_base=json.dumps(base, ensure_ascii=False),
            whole=sorted(config.modules_to_save or []),
            trained=f"{sum(weight.numel() for weight in model.parameters() if weight.requires_grad):,}",
            versions=versions,
            **facts,
        )
        (incomplete / "README.md").write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return folder


def save(folder: Path, model, processor, recipe: dict | None, tensors: dict | None = None) -> None:
    model.save_pretrained(folder, state_dict=tensors)
    processor.save_pretrained(folder)
    if recipe is not None:
        (folder / "recipe.yaml").write_text(
            yaml.safe_dump(without_credentials(recipe), sort_keys=False), encoding="utf-8"
        )


def run_name(folder: Path, recipe: dict | None) -> str:
    return (recipe or {}).get("run_name") or name_of(folder.resolve())
