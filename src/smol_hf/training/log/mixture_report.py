"""The mixture as planned and as it came: a table for people, `mixture.json` for programs and for going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from smol_hf.data.mixture.shares import PlannedMixture, by_modality, shares
from smol_hf.support.formatting import percent
from smol_hf.training.log.source_counters import FIELDS, SourceBooks

FILE_NAME = "mixture.json"


def describe(planned: PlannedMixture, books: SourceBooks | None = None) -> dict[str, Any]:
    """The content of `mixture.json`; without `books`, before anything was drawn."""
    samples = books.total[:, FIELDS.index("samples")].tolist() if books is not None else [0] * len(planned.names)
    columns = {
        "name": planned.names,
        "modality": planned.modalities,
        "rows": planned.rows,
        "expected_rows": planned.expected,
        "records_per_round": planned.records,
        "planned_share": shares(planned.records),
        "planned_share_before": shares_before(planned),
    }
    if books is not None:
        columns |= {"realised_share": shares(samples), "epoch": books.epochs()}
        columns |= {name: books.total[:, position].tolist() for position, name in enumerate(FIELDS)}
    sources = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return {
        "sources": sources,
        "modalities": modality_shares(planned, samples if books is not None else None),
        "failed": [
            {"name": each.name, "modality": each.modality, "records_per_round": each.records, "reason": each.reason}
            for each in planned.failed
        ],
    }


def modality_shares(planned: PlannedMixture, samples: list[int] | None) -> dict[str, dict[str, float]]:
    """Empty where the mixture names no modality."""
    if not any(planned.modalities):
        return {}
    columns = {"planned_share": by_modality(planned.modalities, shares(planned.records))}
    if samples is not None:
        columns["realised_share"] = by_modality(planned.modalities, shares(samples))
    return {key: {name: each[key] for name, each in columns.items()} for key in columns["planned_share"]}


def shares_before(planned: PlannedMixture) -> list[float | None]:
    """Shares of the mixture as the recipe has it, those that failed at the end; None each where it is not known what
    one of them would give."""
    records = [*planned.records, *(each.records for each in planned.failed)]
    return [None] * len(records) if None in records else list(shares(records))


def save_mixture(folder: Path, planned: PlannedMixture, books: SourceBooks | None = None) -> None:
    text = json.dumps(describe(planned, books), indent=1, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def load_counters(folder: Path, planned: PlannedMixture) -> torch.Tensor:
    """The counters (sources, fields) that a checkpoint holds."""
    saved = {each["name"]: each for each in json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["sources"]}
    return torch.tensor([[saved[name][field] for field in FIELDS] for name in planned.names], dtype=torch.long)


def print_failed(console: Console, planned: PlannedMixture) -> None:
    """The sources that are left out, with the reasons, and what the shares were and are."""
    total = len(planned.names) + len(planned.failed)
    console.print(f"left out of the mixture, {len(planned.failed)} of {total} sources:")
    for each in planned.failed:
        console.print(f"  {each.name}: {each.reason}", soft_wrap=True)
    table = Table("source", "modality", "share before", "share now")
    before, now = shares_before(planned), [*shares(planned.records), *[0.0] * len(planned.failed)]
    names = [*planned.names, *(each.name for each in planned.failed)]
    modalities = [*planned.modalities, *(each.modality for each in planned.failed)]
    for row in zip(names, modalities, before, now):
        table.add_row(row[0], row[1] or "", "not known" if row[2] is None else percent(row[2]), percent(row[3]))
    for modality, share in by_modality(modalities, now).items() if any(modalities) else ():
        old = "not known" if None in before else percent(by_modality(modalities, before)[modality])
        table.add_row(f"all of {modality}", "", old, percent(share), style="bold")
    console.print(table)


def print_shares(console: Console, planned: PlannedMixture, books: SourceBooks) -> None:
    """Planned and realised share of each source and modality."""
    facts = describe(planned, books)
    table = Table("source", "planned", "realised", "samples", "trained tokens", "skipped", "passes")
    for each in facts["sources"]:
        table.add_row(
            each["name"],
            percent(each["planned_share"]),
            percent(each["realised_share"]),
            *(f"{each[name]:,}" for name in ("samples", "trained_tokens", "skipped")),
            f"{each['epoch']:.2f}",
        )
    for modality, each in facts["modalities"].items():
        row = (percent(each["planned_share"]), percent(each["realised_share"]))
        table.add_row(f"all of {modality}", *row, "", "", "", "", style="bold")
    console.print(table)
    for each in facts["sources"]:
        if each["other_modality"]:
            line = (
                f"{each['name']}: {each['other_modality']:,} of {each['samples']:,} samples are not {each['modality']}"
            )
            console.print(line, soft_wrap=True)
        if each["given_up"]:
            line = f"{each['name']}: given up by {each['given_up']} lanes, which found nothing usable in it"
            console.print(line, soft_wrap=True)
