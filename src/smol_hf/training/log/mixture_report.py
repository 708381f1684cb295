"""The planned and the realised mixture: a table for people, `mixture.json` for programs and for resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from smol_hf.data.mixture.shares import PlannedMixture, by_modality, shares
from smol_hf.support.formatting import percent
from smol_hf.support.tables import print_table
from smol_hf.training.log.counters import COLUMNS, RUN_COUNTERS, SOURCE_COUNTERS, RunCounters
from smol_hf.training.log.counters import FILE_NAME as COUNTERS

FILE_NAME = "mixture.json"


def mixture_facts(planned: PlannedMixture, counters: RunCounters | None = None) -> dict[str, Any]:
    """Return the content of `mixture.json`: the planned shares, and with `counters` also the realised ones."""
    columns: dict[str, Sequence] = {
        "name": planned.names,
        "modality": planned.modalities,
        "rows": planned.rows,
        "expected_rows": planned.expected,
        "records_per_round": planned.records,
        "planned_share": shares(planned.records),
        "planned_share_before": shares_before(planned),
    }
    samples = None
    if counters is not None:
        samples = counters.of_sources("samples")
        columns |= {"realised_share": shares(samples), "epoch": counters.epochs()}
        columns |= {name: counters.of_sources(name) for name in SOURCE_COUNTERS}
    sources = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return {
        "sources": sources,
        "modalities": modality_shares(planned, samples),
        "failed": [
            {"name": each.name, "modality": each.modality, "records_per_round": each.records, "reason": each.reason}
            for each in planned.failed
        ],
    }


def modality_shares(planned: PlannedMixture, samples: list[int] | None) -> dict[str, dict[str, float]]:
    """Return the shares by modality; empty if the mixture names no modality."""
    if not any(planned.modalities):
        return {}
    columns = {"planned_share": by_modality(planned.modalities, shares(planned.records))}
    if samples is not None:
        columns["realised_share"] = by_modality(planned.modalities, shares(samples))
    return {key: {name: each[key] for name, each in columns.items()} for key in columns["planned_share"]}


def shares_before(planned: PlannedMixture) -> list[float | None]:
    """Return the shares as the recipe has them, failed sources last. All are None if one of them is unknown."""
    records = [*planned.records, *(each.records for each in planned.failed)]
    return [None] * len(records) if None in records else list(shares(records))


def save_mixture(folder: Path, planned: PlannedMixture, counters: RunCounters | None = None) -> None:
    """Write `mixture.json`."""
    text = json.dumps(mixture_facts(planned, counters), indent=1, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def load_counters(folder: Path, planned: PlannedMixture) -> torch.Tensor:
    """Read the counters of a checkpoint, see `RunCounters.total`."""
    of_run = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
    saved = {each["name"]: each for each in json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))["sources"]}
    rows = [{name: saved[source][name] for name in SOURCE_COUNTERS} for source in planned.names]
    rows.append({name: of_run[name] for name in RUN_COUNTERS if name in of_run})  # 0.1.0 counted no spikes
    return torch.tensor([[row.get(name, 0) for name in COLUMNS] for row in rows], dtype=torch.long)


def describe_failed(planned: PlannedMixture) -> list[str | Table]:
    """Return the sources that are left out, with the reasons, and a table of the shares before and after."""
    total = len(planned.names) + len(planned.failed)
    table = Table("source", "modality", "share before", "share now")
    before, now = shares_before(planned), [*shares(planned.records), *[0.0] * len(planned.failed)]
    names = [*planned.names, *(each.name for each in planned.failed)]
    modalities = [*planned.modalities, *(each.modality for each in planned.failed)]
    for name, modality, old, new in zip(names, modalities, before, now):
        table.add_row(name, modality or "", "unknown" if old is None else percent(old), percent(new))
    known = [share for share in before if share is not None]
    for modality, share in by_modality(modalities, now).items() if any(modalities) else ():
        old = percent(by_modality(modalities, known)[modality]) if len(known) == len(before) else "unknown"
        table.add_row(f"all of {modality}", "", old, percent(share), style="bold")
    return [
        f"left out of the mixture, {len(planned.failed)} of {total} sources:",
        *(f"  {each.name}: {each.reason}" for each in planned.failed),
        table,
    ]


def print_shares(console: Console, planned: PlannedMixture, counters: RunCounters) -> None:
    """Print the planned and the realised share of each source and modality."""
    facts = mixture_facts(planned, counters)
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
    print_table(console, table)
    for each in facts["sources"]:
        if each["other_modality"]:
            line = (
                f"{each['name']}: {each['other_modality']:,} of {each['samples']:,} samples are not {each['modality']}"
            )
            console.print(line, soft_wrap=True)
        if each["given_up"]:
            line = f"{each['name']}: given up by {each['given_up']} lanes, which found nothing usable in it"
            console.print(line, soft_wrap=True)
