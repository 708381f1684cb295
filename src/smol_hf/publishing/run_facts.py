"""Collect the facts of a run for its model card: hardware, time, data and losses."""

from __future__ import annotations

import json
from pathlib import Path

from smol_hf.data.digits import EMBEDDED
from smol_hf.data.sources.hub_dataset import hub_id, repository_of
from smol_hf.support.formatting import duration, is_number, percent
from smol_hf.training.log.console import read_log
from smol_hf.training.log.mixture_report import FILE_NAME as MIXTURE

DRAWN = ("digits", "digit_clips")  # embedded sources
DIGITS_SOURCE = "drawn with handwritten digits of the UCI *Optical Recognition of Handwritten Digits* set"
DIGITS_LICENCE = "CC BY 4.0"


def run_facts(output_dir: str | Path, recipe: dict) -> dict:
    """Return `training` (label → text), `data_description` (Markdown) and `datasets` (ids of the Hub) for the card.

    Facts that the run did not record are left out.

    Args:
        output_dir: of the run: its `run.json`, `log.jsonl` and `mixture.json` are read.
        recipe: the resolved recipe.
    """
    output_dir = Path(output_dir)
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    ids = dataset_ids(recipe)
    method = {"Method": f"preferences of answers (DPO), beta {recipe['beta']}"} if "beta" in recipe else {}
    return {
        "training": {**method, **training_facts(run, read_log(output_dir))},
        "data_description": describe_data(json.loads((output_dir / MIXTURE).read_text(encoding="utf-8")), recipe),
        "datasets": sorted(set(ids.values())) or None,
    }


def origin_facts(recipe: dict) -> dict:
    """Return `base_models` for the card, and `language`, which is only known for the embedded sources."""
    sources = {entry.get("data") for entry in entries_of(recipe)}
    digits = bool(sources) and sources <= set(EMBEDDED) and not recipe.get("documents")
    return {"base_models": recipe.get("model"), "language": "en" if digits else None}


def training_facts(run: dict, log: list[dict]) -> dict[str, str]:
    facts = {}
    if "hardware" in run:
        facts["Hardware"] = run["hardware"]
    if is_number(run.get("train_seconds")):
        since = run.get("resumed_at_step")
        facts["Time"] = duration(run["train_seconds"]) + (f" since it was resumed at step {since:,}" if since else "")
    for change in run.get("changes", ()):
        changed = [f"{name} {old} → {new}" for name, (old, new) in change["changed"].items()]
        facts[f"Changed from step {change['step']:,} on"] = ", ".join(changed)
    if is_number(run.get("steps")):
        facts["Steps"] = f"{run['steps']:,}"
    if counted := [entry for entry in log if is_number(entry.get("total_tokens"))]:
        last = counted[-1]
        facts["Tokens"] = f"{last['total_tokens']:,} read, {last['total_trained_tokens']:,} of them trained"
        facts["Samples"] = f"{last['total_samples']:,}"
    for key, label in (
        ("loss", "Loss"), ("eval_loss", "Validation loss"), ("eval_bits_per_byte", "Validation bits per byte"),
        ("rewards/margins", "Margin of the chosen answers"),
    ):  # fmt: skip
        if found := [entry for entry in log if is_number(entry.get(key))]:
            values = [f"{entry[key]:.4f} (step {entry['step']:,})" for entry in found]
            facts[label] = " → ".join(values if len(values) == 1 else (values[0], values[-1]))
    if is_number(run.get("seed")):
        facts["Seed"] = str(run["seed"])
    return facts


def entries_of(recipe: dict) -> list[dict]:
    return recipe.get("mixture") or [{"data": recipe["data"]}] if recipe.get("data") or recipe.get("mixture") else []


def dataset_ids(recipe: dict) -> dict[str, str]:
    """Return {name of a source in the recipe, or its id: id of its dataset on the Hub}."""
    found = {}
    for entry in entries_of(recipe):
        data = str(entry.get("data"))
        if (name := repository_of(data) or hub_id(data)) is not None:
            found[entry.get("name") or name] = name
    return found


def describe_data(mixture: dict, recipe: dict) -> str:
    """Write a table of the training data, with known licences."""
    ids = dataset_ids(recipe)
    lines = ["| Data | Share | Samples | Licence |", "|---|---:|---:|---|"]
    for source in mixture["sources"]:
        name, licence = source["name"], "not known here"
        shown = f"`{name}`"
        if name in DRAWN and any(entry.get("data") == name for entry in entries_of(recipe)):
            shown, licence = f"`{name}`, {DIGITS_SOURCE}", DIGITS_LICENCE
        elif found := next((ids[each] for each in ids if name == each or name.startswith(f"{ids[each]}/")), None):
            shown, licence = f"[{name}](https://huggingface.co/datasets/{found})", "see its page"
        share, samples = source.get("realised_share"), source.get("samples")
        lines.append(
            f"| {shown} | {percent(share) if is_number(share) else ''} "
            f"| {f'{samples:,}' if is_number(samples) else ''} | {licence} |"
        )
    return "\n".join(lines)
