"""The report of a chain of runs: a row of numbers for each stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from smol_hf.support.formatting import compact, duration
from smol_hf.training.log.console import read_log


def facts_of(output_dir: Path) -> dict[str, Any]:
    """Return the numbers of a finished stage, from the records of its run."""
    run = json.loads((output_dir / "run.json").read_text(encoding="utf-8"))
    last: dict[str, Any] = {}
    for entry in read_log(output_dir):
        last |= entry
    return {
        "steps": run["steps"],
        "samples": last.get("total_samples"),
        "tokens": last.get("total_tokens"),
        "seconds": run["train_seconds"],
        "resumed_at_step": run["resumed_at_step"],
        "loss": last.get("loss"),
        "checkpoint": str(output_dir / "checkpoint"),
    }


def report_table(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each stage. A time since a step is that of the last session."""
    numbers = (Column(name, justify="right") for name in ("steps", "samples", "tokens", "time", "last loss"))
    table = Table("", "stage", *numbers, Column("checkpoint", overflow="fold"))
    for row in rows:
        since = f" since step {row['resumed_at_step']:,}" if row["resumed_at_step"] else ""
        cells = [compact(row[name]) if row[name] is not None else "–" for name in ("samples", "tokens")]
        loss = f"{row['loss']:.4f}" if row["loss"] is not None else "–"
        name = f"{row['recipe']}{', skipped' if row['skipped'] else ''}"
        time = f"{duration(row['seconds'])}{since}"
        table.add_row(str(row["stage"]), name, f"{row['steps']:,}", *cells, time, loss, row["checkpoint"])
    return table
