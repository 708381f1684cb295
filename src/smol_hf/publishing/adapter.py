"""Write the folder of an adapter for PEFT, with processor, recipe and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from smol_hf.publishing.model_card import is_hub_id, name_of
from smol_hf.support.atomic import atomic_folder
from smol_hf.support.resources import resource_path


def publish_adapter(
    folder: str | Path,
    model,
    processor,
    *,
    recipe: dict,
    versions: dict[str, str],
    training: Mapping[str, str] | None = None,
    data_description: str | None = None,
    datasets: Sequence[str] | None = None,
) -> Path:
    """Write the adapter of a `PeftModel` in one step; an earlier one in `folder` is replaced.

    Args:
        training, data_description, datasets: for the card, see `run_facts`.
    """
    folder = Path(folder)
    with atomic_folder(folder, replace=True) as incomplete:
        model.save_pretrained(incomplete)
        processor.save_pretrained(incomplete)
        model.generation_config.save_pretrained(incomplete)  # its end tokens may differ from the base
        (incomplete / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        config = model.peft_config[model.active_adapter]
        base = config.base_model_name_or_path
        has_vision = getattr(model.config, "vision_config", None) is not None
        card = ModelCard.from_template(
            ModelCardData(
                library_name="peft",
                pipeline_tag="image-text-to-text" if has_vision else "text-generation",
                tags=["smol_hf", "lora"],
                datasets=list(datasets) if datasets else None,
                base_model=base if is_hub_id(base) else None,
            ),
            template_path=str(resource_path("hub_templates", "adapter_card.md.jinja")),
            has_vision=has_vision,
            name=recipe.get("run_name") or name_of(folder.resolve()),
            kind="DoRA" if config.use_dora else "LoRA",
            rank=config.r,
            base=base,
            quoted_base=json.dumps(base, ensure_ascii=False),
            whole=sorted(config.modules_to_save or []),
            trained=f"{sum(weight.numel() for weight in model.parameters() if weight.requires_grad):,}",
            versions=versions,
            training=training or {},
            data_description=data_description,
        )
        (incomplete / "README.md").write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return folder
