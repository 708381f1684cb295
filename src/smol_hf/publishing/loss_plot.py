"""Plot the losses of a run for its model card."""

from __future__ import annotations

from pathlib import Path

from smol_hf.support.formatting import is_number

FILE_NAME = "loss.png"
KINDS = (
    ("loss", "training, mean since the last point", {"linewidth": 1}),
    ("eval_loss", "validation", {"marker": "o", "markersize": 3}),
)


def plot_losses(folder: str | Path, log: list[dict]) -> Path | None:
    """Draw the training and validation loss of each logged step to `loss.png` in the folder.

    Args:
        log: the entries of `log.jsonl`.

    Returns:
        The file; None, and no plot, if fewer than two steps were logged.
    """
    lines = {}
    for key, label, style in KINDS:
        found = {entry["step"]: entry[key] for entry in log if is_number(entry.get(key)) and "step" in entry}
        if found:
            lines[label] = (sorted(found), [found[step] for step in sorted(found)], style)
    if max((len(steps) for steps, *_ in lines.values()), default=0) < 2:
        return None

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.6))
    axes = figure.add_axes((0.1, 0.14, 0.88, 0.83))  # left, bottom, width, height
    for label, (steps, losses, style) in lines.items():
        axes.plot(steps, losses, label=label, **style)
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    path = Path(folder) / FILE_NAME
    figure.savefig(path, dpi=120)
    return path
