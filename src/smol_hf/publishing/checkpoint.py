"""Write a published checkpoint: weights, code, processor, template, model card and recipe, in one step."""

from __future__ import annotations

from pathlib import Path

import yaml

import smol_hf.auto  # noqa: F401 (saved models carry their code once it has run)
from smol_hf.processing.plain_tokenizer import write_portable_tokenizer_config
from smol_hf.publishing.loss_plot import plot_losses
from smol_hf.publishing.model_card import name_of, write_model_card
from smol_hf.support.atomic import atomic_folder
from smol_hf.support.tokenizer_of import is_language_model
from smol_hf.training.model.parts import part_modules


def publish_checkpoint(
    folder: str | Path,
    model,
    processor,
    *,
    recipe: dict | None = None,
    versions: dict | None = None,
    log: list[dict] | None = None,
    **card,
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
        model.save_pretrained(incomplete)
        processor.save_pretrained(incomplete)
        if is_language_model(processor) and processor.is_fast:
            write_portable_tokenizer_config(incomplete)
        if recipe is not None:
            (incomplete / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        if log is not None:
            plot_losses(incomplete, log)
        name = (recipe or {}).get("run_name") or name_of(folder.resolve())
        describe_checkpoint(incomplete, model, name=name, recipe=recipe, versions=versions, **card)
    return folder


def describe_checkpoint(folder: Path, model, *, name: str, **card) -> None:
    """Write the model card of a checkpoint, or rewrite it with more facts."""
    modules = {part: model.get_submodule(name) for part, name in part_modules(model).items()}
    parameters = {part: sum(weight.numel() for weight in module.parameters()) for part, module in modules.items()}
    parameters["total"] = sum(parameters.values())
    write_model_card(folder, model_name=name, config=model.config, parameters=parameters, **card)
