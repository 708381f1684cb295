"""The sources of a dry run: local ones are opened and counted, others are named; nothing is downloaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.digits import EMBEDDED
from smol_hf.data.mixture.failed_sources import FailedSource, refuse_failed
from smol_hf.data.mixture.mixture import MixtureEntry, located, parse_entries
from smol_hf.data.sources.files import is_remote
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.sources.location import open_location
from smol_hf.text.documents.readers import open_documents
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.values import recipe_errors

HERE, MISSING = "this machine", "missing"


@dataclass
class PlannedSource:
    """A source of a recipe.

    Attributes:
        place: `HERE`, the Hub or another URL, or `MISSING`.
        rows: its number of records; None if unknown without a download.
        records: of them in one round of the data.
        held_out: about the number of its further records that are held out for validation.
    """

    name: str
    place: str
    rows: int | None = None
    records: float | None = None
    modality: str | None = None
    held_out: int = 0


def planned_sources(data: DataArguments | PreferenceArguments) -> list[PlannedSource]:
    """Look at the sources of a recipe. Raises RecipeError, SampleError, FileNotFoundError for unusable local ones."""
    with recipe_errors("the data cannot be used"):
        if isinstance(data, PreferenceArguments):
            names = [data.data, *([data.validation_data] if data.validation_data is not None else [])]
            return [look_at(MixtureEntry(name)) for name in names]
        if data.documents is not None:
            both = (data.documents, data.validation_documents)
            return [look_at_documents(name) for name in both if name is not None]
        others = [MixtureEntry(data.eval_data)] if data.eval_data is not None else []
        for entry in [*others, *parse_entries(data.eval_mixture or [])]:
            look_at(entry, data)  # an error if it is missing
        if data.mixture is not None:
            return look_at_mixture(data)
        return [look_at(MixtureEntry(data.data), data)]


def place_of(data: str) -> str:
    if (dataset := hub_id(data)) is not None:
        return f"the Hub ({dataset})"
    return data if is_remote(data) else HERE


def look_at(entry: MixtureEntry, data: DataArguments | None = None) -> PlannedSource:
    """Open a source of this machine. `data`: keys of its recipe."""
    path = located(entry.data, None if data is None else data.data_root)
    place, rows = place_of(path), entry.available
    if entry.data in EMBEDDED and data is not None:
        rows = data.num_pages
    elif place == HERE:
        rows = len(open_location(path).source)
    held_out = 0 if rows is None or data is None else round(rows * data.eval_fraction)
    rows = None if rows is None else rows - held_out
    return PlannedSource(entry.label, place, rows, entry.records(rows), entry.modality, held_out)


def look_at_documents(name: str) -> PlannedSource:
    place = place_of(name)
    if place == HERE:
        open_documents(name)
    return PlannedSource(name, place, modality="text")


def look_at_mixture(data: DataArguments) -> list[PlannedSource]:
    """Look at the entries of a mixture. A missing one is an error, or left out if the recipe allows it."""
    assert data.mixture is not None
    found, failed = [], []
    for entry in parse_entries(data.mixture):
        try:
            found.append(look_at(entry, data))
        except (OSError, SampleError) as error:
            records = entry.records(entry.available)
            failed.append(FailedSource(entry.label, str(error), entry.modality, records))
            found.append(PlannedSource(entry.label, MISSING, entry.available, records, entry.modality))
    refuse_failed(failed, len(found), data.on_failed_source)
    return found


def shares_of(sources: list[PlannedSource]) -> dict[str, float] | None:
    """Return the planned share of each modality, or of each source if none has one; None if sizes are unknown."""
    sums: dict[str, float] = {}
    by_modality = any(source.modality for source in sources)
    for source in sources:
        if source.records is None:
            return None
        key = (source.modality or "not named") if by_modality else source.name
        sums[key] = sums.get(key, 0) + source.records
    total = sum(sums.values())
    return {key: number / total for key, number in sums.items()} if total else None


def describe(sources: list[PlannedSource]) -> list[dict[str, Any]]:
    return [asdict(source) for source in sources]
