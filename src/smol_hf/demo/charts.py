"""Draw the training curves of the report as SVG for HTML, coloured by the page's CSS variables.

Text stays text: the page's font applies, and words can be searched. The output depends only on the rows, not on the
user's matplotlib settings or the time.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from smol_hf.support.formatting import compact, is_number

RATE_PREFIX = "learning_rate_"

# Matplotlib needs real colours. In the SVG each is replaced by its CSS variable.
_CSS_COLOURS = {
    "#000001": "var(--muted)",
    "#000002": "var(--rule)",
    "#000003": "var(--series-1)",
    "#000004": "var(--series-2)",
    "#000005": "var(--series-3)",
    "#000006": "var(--ink)",
    "#000007": "var(--surface)",
}
_MUTED, _RULE, _SERIES_1, _SERIES_2, _SERIES_3, _INK, _SURFACE = _CSS_COLOURS
_LINES = ((_SERIES_1, "-"), (_SERIES_2, (0, (5, 2))), (_SERIES_3, (0, (1.5, 1.5))), (_MUTED, "-"))
_PARTS_IN_ORDER = ("vision", "connector", "text")
_LOG_SCALE_RATIO = 20


def loss_rows(log_history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Select the rows with a training loss. Raise ValueError if one of them has no `step`."""
    rows = [row for row in log_history if "loss" in row]
    for row in rows:
        if not is_number(row.get("step")):
            raise ValueError(f"a row of log_history has a loss but no step: {dict(row)}")
    return rows


def unfreeze_mark(log_history: Sequence[Mapping[str, Any]]) -> tuple[int, bool] | None:
    """Find the step at which the frozen vision encoder began to learn; None if it did not.

    It is the first logged step with `learning_rate_vision` > 0 after steps with 0. Rows with rate 0 for every part, as
    at the start of a warm-up, do not count as frozen. The boolean is True if the previous step is logged as frozen;
    then the step is exact.
    """
    frozen_step = None
    for row in loss_rows(log_history):
        rates = {key: value for key, value in row.items() if key.startswith(RATE_PREFIX) and is_number(value)}
        vision = rates.pop(RATE_PREFIX + "vision", None)
        if vision is None:
            continue
        if vision > 0:
            return None if frozen_step is None else (row["step"], row["step"] - frozen_step == 1)
        if not rates or any(rate > 0 for rate in rates.values()):
            frozen_step = row["step"]
    return None


def finite_losses(log_history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """List (step, loss) of every row with a finite loss."""
    return [(row["step"], float(row["loss"])) for row in loss_rows(log_history) if is_number(row["loss"])]


def wants_log_scale(losses: Sequence[float]) -> bool:
    """Return True if a linear scale would flatten the end of the curve."""
    return min(losses) > 0 and max(losses) / min(losses) >= _LOG_SCALE_RATIO


def loss_chart(log_history: Sequence[Mapping[str, Any]]) -> str | None:
    """Draw the loss over the steps as an SVG element; None without a finite loss. Other losses leave a gap."""
    rows = loss_rows(log_history)
    losses = [_or_nan(row["loss"]) for row in rows]
    finite = [loss for _, loss in finite_losses(log_history)]
    if not finite:
        return None

    def draw(axes: Axes) -> None:
        steps = [row["step"] for row in rows]
        marker = "o" if len(rows) <= 60 else None
        axes.plot(steps, losses, color=_SERIES_1, linewidth=1.6, marker=marker, markersize=2.6, gid="loss-line")
        if wants_log_scale(finite):
            axes.set_yscale("log")
            axes.set_ylim(min(finite) * 0.8, max(finite) * 1.8)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
            axes.yaxis.set_minor_locator(NullLocator())
        elif min(finite) >= 0:
            axes.set_ylim(0, max(finite) * 1.15 or 1)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        _mark_unfreeze(axes, log_history, labelled=True)

    return _svg(draw, name="loss", label="Loss over the training steps")


def rate_series(log_history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, learning rate) by part, vision, connector and text first. A rate that is not finite becomes NaN.

    The rates are `learning_rate_<part>` of the rows with a loss. If no row has one, `learning_rate` is "all parts".
    """
    rows = loss_rows(log_history)
    keys = {key for row in rows for key in row if key.startswith(RATE_PREFIX)}
    known = [RATE_PREFIX + part for part in _PARTS_IN_ORDER if RATE_PREFIX + part in keys]
    names = {key: key.removeprefix(RATE_PREFIX).replace("_", " ") for key in known + sorted(keys.difference(known))}
    series = {
        name: [(row["step"], _or_nan(row[key])) for row in rows if key in row]
        for key, name in (names or {"learning_rate": "all parts"}).items()
    }
    return {name: points for name, points in series.items() if points}


def rate_chart(log_history: Sequence[Mapping[str, Any]]) -> str | None:
    """Draw the learning rate of each part over the steps as an SVG element; None if none was logged."""
    series = rate_series(log_history)
    if not series:
        return None

    def draw(axes: Axes) -> None:
        for index, (label, points) in enumerate(series.items()):
            colour, style = _LINES[min(index, len(_LINES) - 1)]
            look = {"color": colour, "linestyle": style, "linewidth": 1.6, "clip_on": False, "zorder": 3}
            steps, rates = zip(*points, strict=True)
            axes.plot(steps, rates, **look, label=label, gid=f"rate-line-{index}")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        legend = {"frameon": False, "borderpad": 0, "handlelength": 2.2, "columnspacing": 1.6, "borderaxespad": 0.4}
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, **legend)
        _mark_unfreeze(axes, log_history, labelled=False)

    return _svg(draw, name="rate", label="Learning rate of each part over the training steps")


def _or_nan(value: Any) -> float:
    return float(value) if is_number(value) else math.nan


def _mark_unfreeze(axes: Axes, log_history: Sequence[Mapping[str, Any]], *, labelled: bool) -> None:
    mark = unfreeze_mark(log_history)
    if mark is None:
        return
    step, exact = mark
    line = axes.axvline(step, color=_INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    if labelled:
        line.set_gid("unfreeze-mark")
        left, right = axes.get_xlim()
        on_right = step - left < (right - left) * 0.55
        axes.annotate(
            f"vision unfrozen {'at' if exact else 'by'} step {step:,}",
            xy=(step, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(5 if on_right else -5, -2),
            textcoords="offset points",
            ha="left" if on_right else "right",
            va="top",
            color=_INK,
            bbox={"facecolor": _SURFACE, "edgecolor": "none", "pad": 1.5},
        )


def _svg(draw: Callable[[Axes], None], *, name: str, label: str) -> str:
    """Draw on new axes in the report's style. `name` makes the ids of the charts of a page unique."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": f"smol_hf-{name}",
                "font.size": 10,
                "text.color": _MUTED,
                "axes.labelcolor": _MUTED,
                "xtick.color": _MUTED,
                "ytick.color": _MUTED,
            }
        )
        figure = Figure(figsize=(5.0, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_RULE)
        axes.grid(axis="y", color=_RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        axes.margins(x=0.01)
        draw(axes)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value).replace(" ", "")))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        buffer = io.BytesIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _for_html(buffer.getvalue().decode("utf-8"), label)


def _for_html(svg: str, label: str) -> str:
    """Adapt matplotlib's file to HTML: no prolog, no namespaces, no repeated ids, CSS colours."""
    svg = svg[svg.index("<svg") :]
    tag = rf'<svg class="chart" \1 role="img" aria-label="{label}">'
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', tag, svg, count=1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for placeholder, variable in _CSS_COLOURS.items():
        svg = svg.replace(placeholder, variable)
    return svg.strip()
