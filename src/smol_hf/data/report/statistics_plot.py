"""A plot of the lengths of samples, with a line for each source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from smol_hf.data.stream.stream import Plan
from smol_hf.data.stream.survey import Size, Survey

BINS = 40
PANELS = (("num_tokens", "tokens"), ("num_trained", "trained tokens"), ("num_tiles", "tiles"))
NAMED_SOURCES = 12


def plot_statistics(path: str | Path, plan: Plan, found: Survey) -> Path:
    """Plot the distributions of tokens, trained tokens and tiles. The suffix of `path` is the format.

    Raises:
        ValueError: for a format that matplotlib cannot write.
    """
    sizes: list[list[Size]] = [[] for _ in plan.sources]
    for (index, _), each in found.found.items():
        if isinstance(each, Size):
            sizes[index].append(each)
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, words) in zip(figure.subplots(1, len(PANELS)), PANELS):
        values = [[getattr(size, name) for size in of_source] for of_source in sizes]
        highest = max((max(each) for each in values if each), default=1)
        edges = np.linspace(0, highest + 1, min(BINS, highest + 1) + 1)
        for source, each in zip(plan.sources, values):
            if each:
                axes.stairs(*np.histogram(each, bins=edges), label=source.name)
        if name == "num_tokens" and highest > plan.context_length / 2:
            axes.axvline(plan.context_length, color="gray", linestyle=":")
        axes.set(xlabel=f"{words} of a sample", ylabel="samples", xlim=(0, None), ylim=(0, None))
    if 1 < len(plan.sources) <= NAMED_SOURCES:
        axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
