"""Which datasets are known, and which adapters read them."""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters import find_adapter, known_adapters
from smol_hf.data.adapters.registry import load_entry_points


def catalog() -> dict[str, Any]:
    """`adapters` (name, what its records are, the keys they are known by, package), `datasets` of the Hub (id,
    adapter, what its records are), and `broken`: adapters of other packages that cannot be had, each with why."""
    adapters = [find_adapter(name) for name in known_adapters()]
    datasets = [
        {"dataset": dataset, "adapter": each.name, "records": each.summary}
        for each in adapters
        for dataset in each.datasets
    ]
    return {
        "adapters": [
            {"name": each.name, "records": each.summary, "known_by": known_by(each.shape), "package": each.package}
            for each in adapters
        ],
        "datasets": sorted(datasets, key=lambda entry: entry["dataset"].casefold()),
        "broken": dict(sorted(load_entry_points().items())),
    }


def known_by(shape: Any) -> str:
    if isinstance(shape, tuple):
        return ", ".join(shape)
    return "several keys" if callable(shape) else "name or dataset"
