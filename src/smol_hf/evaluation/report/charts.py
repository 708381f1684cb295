"""Draw the training curves of the report as SVG for HTML, coloured by the page's CSS variables.

Text stays text: the page's font applies, and words can be searched. The output depends only on the rows, not on the
user's matplotlib settings or the time.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from smol_hf.support.formatting import compact, is_number

# Matplotlib needs real colours. In the SVG each is replaced by the CSS variable of its name.
COLOURS = {
    "muted": "#000001", "rule": "#000002", "ink": "#000003", "surface": "#000004",
    "series-1": "#000005", "series-2": "#000006", "series-3": "#000007",
}  # fmt: skip
# Part → colour and line style of its learning rate.
PARTS = {
    "vision": (COLOURS["series-1"], "-"),
    "connector": (COLOURS["series-2"], (0, (5, 2))),
    "text": (COLOURS["series-3"], (0, (1.5, 1.5))),
}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["muted"]),
}
LOG_SCALE_RATIO = 20


def finite_losses(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if is_number(row["loss"])]


def needs_log_scale(losses: Sequence[float]) -> bool:
    """Return True if a linear scale would flatten the end of the curve."""
    return min(losses) > 0 and max(losses) / min(losses) >= LOG_SCALE_RATIO


def loss_chart(rows: Sequence[dict[str, Any]], unfrozen_at: int | None = None) -> str:
    """Draw the loss over the steps as an SVG element. A loss that is not finite leaves a gap.

    Args:
        rows: entries of the log with `step` and `loss`; at least one loss is finite.
        unfrozen_at: step from which the image encoder is trained, to mark it.
    """
    finite = finite_losses(rows)

    def draw(axes: Axes) -> None:
        losses = [row["loss"] if is_number(row["loss"]) else math.nan for row in rows]
        look = {"linewidth": 1.6, "marker": "o" if len(rows) <= 60 else None, "markersize": 2.6}
        axes.plot([row["step"] for row in rows], losses, color=COLOURS["series-1"], gid="loss-line", **look)
        if needs_log_scale(finite):
            axes.set_yscale("log")
            axes.set_ylim(min(finite) * 0.8, max(finite) * 1.8)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(0, max(finite) * 1.15 or 1)
        if unfrozen_at is not None:
            mark_unfreezing(axes, unfrozen_at)

    return svg(draw, name="loss", label="Loss over the training steps")


def rate_chart(rows: Sequence[dict[str, Any]]) -> str:
    """Draw the learning rate of each part over the steps as an SVG element."""

    def draw(axes: Axes) -> None:
        for part, (colour, dashes) in PARTS.items():
            rates = [row[f"learning_rate_{part}"] for row in rows]
            look = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "clip_on": False, "zorder": 3}
            axes.plot([row["step"] for row in rows], rates, label=part, gid=f"rate-{part}", **look)
        axes.set_ylim(bottom=0)
        legend = {"frameon": False, "borderpad": 0, "handlelength": 2.2, "columnspacing": 1.6, "borderaxespad": 0.4}
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(PARTS), **legend)

    return svg(draw, name="rate", label="Learning rate of each part over the training steps")


def mark_unfreezing(axes: Axes, step: int) -> None:
    line = axes.axvline(step, color=COLOURS["ink"], linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    line.set_gid("unfreeze-mark")
    left, right = axes.get_xlim()
    on_right = step - left < (right - left) * 0.55
    axes.annotate(
        f"vision unfrozen at step {step:,}",
        xy=(step, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5 if on_right else -5, -2),
        textcoords="offset points",
        ha="left" if on_right else "right",
        va="top",
        color=COLOURS["ink"],
        bbox={"facecolor": COLOURS["surface"], "edgecolor": "none", "pad": 1.5},
    )


def svg(draw: Callable[[Axes], None], *, name: str, label: str) -> str:
    """Draw on new axes in the report's style. `name` makes the ids of the charts of a page unique."""
    with style.context(STYLE | {"svg.hashsalt": f"smol_hf-{name}"}, after_reset=True):
        figure = Figure(figsize=(5.0, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(COLOURS["rule"])
        axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        axes.margins(x=0.01)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        draw(axes)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value).replace(" ", "")))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return for_html(buffer.getvalue(), label)


def for_html(text: str, label: str) -> str:
    """Adapt matplotlib's file to HTML: no prolog, no namespaces, no repeated ids, CSS colours."""
    text = text[text.index("<svg") :]
    tag = rf'<svg class="chart" \1 role="img" aria-label="{label}">'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', tag, text, count=1)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.strip()
