"""Score the answers of the demo, and write its report: one HTML file without scripts and external files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from smol_hf.data.digits import Page
from smol_hf.demo.charts import PARTS, finite_losses, loss_chart, needs_log_scale, rate_chart
from smol_hf.support.formatting import compact, duration, percent
from smol_hf.support.resources import resource_path

# Pages are enlarged by an integer factor up to this width in CSS pixels, so that all pixels have the same size.
GALLERY_IMAGE_WIDTH = 192
GALLERY_SIZE = 30
THROUGHPUT = ("tokens_per_second", "trained_tokens_per_second", "samples_per_second")


@dataclass(frozen=True)
class Answered:
    """A held-out page with the model's answer to its question, and the answer `blind` without the image."""

    page: Page
    answer: str
    blind: str

    @property
    def correct(self) -> bool:
        return self.answer.strip() == self.page.answer


def image_of(page: Page) -> bytes:
    """Return the PNG file of a page."""
    content = page.conversation.images[0].content
    assert content is not None  # pages are drawn in memory
    return content


def score(answered: Sequence[Answered]) -> dict[str, Any]:
    """Return `exact_match`, `blind_exact_match` (fractions of 1), `questions`, and the three again in `per_kind`."""

    def fractions(chosen: Sequence[Answered]) -> dict[str, Any]:
        return {
            "exact_match": sum(each.correct for each in chosen) / len(chosen),
            "blind_exact_match": sum(each.blind.strip() == each.page.answer for each in chosen) / len(chosen),
            "questions": len(chosen),
        }

    kinds = sorted({each.page.kind for each in answered})
    per_kind = {kind: fractions([each for each in answered if each.page.kind == kind]) for kind in kinds}
    return {**fractions(answered), "per_kind": per_kind}


def write_report(
    path: Path,
    *,
    title: str,
    metrics: dict[str, Any],
    log: Sequence[dict[str, Any]],
    answered: Sequence[Answered],
    unfrozen_at: int,
) -> None:
    """Write the report.

    Args:
        metrics: the content of the demo's `metrics.json`.
        log: the entries of the run's `log.jsonl`.
        answered: the first `GALLERY_SIZE` are shown. The first question of each kind explains the kind.
        unfrozen_at: step from which the image encoder is trained; 0 if it never was frozen.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"compact": compact, "duration": duration, "percent": percent}
    template = environment.from_string(resource_path("hub_templates", "report.html.jinja").read_text("utf-8"))
    rows = [row for row in log if "loss" in row]
    html = template.render(
        title=title,
        metrics=metrics,
        examples={each.page.kind: each.page.question for each in reversed(answered)},
        training=training_of(rows, unfrozen_at) if finite_losses(rows) else None,
        gallery=[card(each) for each in answered[:GALLERY_SIZE]],
        facts=facts_of(metrics, rows),
    )
    path.write_text(html, encoding="utf-8", newline="\n")


def training_of(rows: Sequence[dict[str, Any]], unfrozen_at: int) -> dict[str, Any]:
    """Return the charts and the facts below them."""
    losses = finite_losses(rows)
    steps = [row["step"] for row in rows]
    mark = unfrozen_at if 0 < unfrozen_at <= steps[-1] else None
    peaks = {part: max(row[f"learning_rate_{part}"] for row in rows) for part in PARTS}
    return {
        "loss_svg": Markup(loss_chart(rows, mark)),
        "rate_svg": Markup(rate_chart(rows)),
        "peaks": [f"{part} {peak:.3g}" if peak else f"{part} 0 (frozen)" for part, peak in peaks.items()],
        "log_scale": needs_log_scale(losses),
        "first": f"{losses[0]:.3g} at step {steps[0]:,}",
        "last": f"{losses[-1]:.3g} at step {steps[-1]:,}",
        "gaps": len(rows) - len(losses),
        "unfrozen": mark is not None,
    }


def card(answered: Answered) -> dict[str, Any]:
    """Return a page of the gallery."""
    png = image_of(answered.page)
    with Image.open(io.BytesIO(png)) as image:
        scale = max(1, GALLERY_IMAGE_WIDTH // max(image.size))
        return {
            "answered": answered,
            "source": "data:image/png;base64," + base64.b64encode(png).decode(),
            "width": image.width * scale,
            "height": image.height * scale,
        }


def facts_of(metrics: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the rows of the table of facts."""
    seconds = metrics["train_seconds"]
    facts = {
        "Held-out questions": f"{metrics['questions']:,}",
        "Training time": f"{duration(seconds)} ({seconds:,.1f} s)",
        "Steps": f"{metrics['steps']:,}",
        "Parameters": f"{metrics['parameters']:,}",
        "Seed": str(metrics["seed"]),
        "Data fingerprint": metrics["data_fingerprint"],
    }
    for key in THROUGHPUT:
        if values := [row[key] for row in rows if key in row]:
            middle = median(values)
            facts[f"{key.replace('_', ' ').capitalize()}, median"] = f"{middle:,.{0 if middle >= 100 else 1}f}"
    return facts | metrics["versions"]
