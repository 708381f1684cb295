"""Write the report of a training run: one HTML file without scripts and external files."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from smol_hf.demo.charts import (
    finite_losses,
    loss_chart,
    loss_rows,
    rate_chart,
    rate_series,
    unfreeze_mark,
    wants_log_scale,
)
from smol_hf.support.formatting import compact, duration, is_number, percent
from smol_hf.support.resources import resource_path

# Pages are enlarged by an integer factor up to this width in CSS pixels, so that all pixels have the same size.
_GALLERY_IMAGE_WIDTH = 192
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_THROUGHPUT = {
    "tokens_per_second": "Tokens per second",
    "trained_tokens_per_second": "Trained tokens per second",
    "samples_per_second": "Samples per second",
}
_SHOWN_ELSEWHERE = {"exact_match", "blind_exact_match", "questions", "train_seconds", "parameters", "seed"}


@dataclass(frozen=True)
class GalleryItem:
    """A held-out page of the gallery. `image` is an encoded PNG, the other fields are plain text."""

    image: bytes
    kind: str
    question: str
    answer: str
    truth: str

    @property
    def correct(self) -> bool:
        """True if the answer is the truth, apart from surrounding white space."""
        return self.answer.strip() == self.truth.strip()


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    log_history: Sequence[Mapping[str, Any]],
    gallery: Sequence[GalleryItem],
) -> Path:
    """Write the report to `path`, creating folders, and return the path. A section without data is left out.

    Args:
        metrics: `exact_match` (a fraction of 1); optional `blind_exact_match`, `per_kind` (kind → `exact_match`,
            `blind_exact_match`, `questions`), `questions`, `train_seconds`, `parameters`, `seed`, `versions` (package
            → version). Other texts and numbers go to the table of facts.
        log_history: the trainer's rows; those with `loss` and `step` are drawn.
        gallery: pages; the first question of each kind explains the kind.

    Raises:
        ValueError: for metrics without `exact_match`, a loss without a step, or an image that is not a PNG.
    """
    if not is_number(metrics.get("exact_match")):
        raise ValueError(f"exact_match is {metrics.get('exact_match')!r}: metrics need it as a number")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resource_path("hub_templates", "report.html.jinja").read_text("utf-8"))
    html = template.render(
        title=title,
        subtitle=_subtitle(metrics),
        overall=_score("All questions", metrics),
        kinds=[
            {**_score(str(kind), scores), "example": next((i.question for i in gallery if i.kind == kind), None)}
            for kind, scores in (metrics.get("per_kind") or {}).items()
        ],
        training=_training(log_history),
        gallery=[_card(number, item) for number, item in enumerate(gallery, start=1)],
        gallery_correct=sum(item.correct for item in gallery),
        facts=_facts(metrics, log_history),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


def _subtitle(metrics: Mapping[str, Any]) -> list[str]:
    pieces = []
    if is_number(metrics.get("parameters")):
        pieces.append(f"{compact(metrics['parameters'])} parameters")
    if is_number(metrics.get("train_seconds")):
        pieces.append(f"trained in {duration(metrics['train_seconds'])}")
    if is_number(metrics.get("questions")):
        pieces.append(f"{metrics['questions']:,} held-out questions")
    return pieces


def _score(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    bars = []
    for key, label, style in (
        ("exact_match", "With the image", "seeing"),
        ("blind_exact_match", "Image removed", "blind"),
    ):
        if is_number(scores.get(key)):
            share = min(max(float(scores[key]), 0.0), 1.0)
            bars.append({"label": label, "style": style, "text": percent(scores[key]), "width": f"{share * 100:.2f}"})
    questions = scores.get("questions")
    return {"name": name, "bars": bars, "questions": f"{questions:,}" if is_number(questions) else None}


def _training(log_history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    svg = loss_chart(log_history)
    if svg is None:
        return None
    finite = finite_losses(log_history)
    rates = rate_chart(log_history)
    return {
        "loss_svg": Markup(svg),
        "rate_svg": Markup(rates) if rates else None,
        "peaks": _peaks(log_history),
        "log_scale": wants_log_scale([loss for _, loss in finite]),
        "first": {"step": f"{finite[0][0]:,}", "loss": f"{finite[0][1]:.3g}"},
        "last": {"step": f"{finite[-1][0]:,}", "loss": f"{finite[-1][1]:.3g}"},
        "gaps": len(loss_rows(log_history)) - len(finite),
        "unfrozen": unfreeze_mark(log_history) is not None,
    }


def _peaks(log_history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the highest logged rate of each part."""
    peaks = []
    for name, points in rate_series(log_history).items():
        rates = [rate for _, rate in points if not math.isnan(rate)]
        if rates:
            peaks.append(f"{name} {max(rates):.3g}" if max(rates) > 0 else f"{name} 0 (frozen)")
    return peaks


def _card(number: int, item: GalleryItem) -> dict[str, Any]:
    if item.image[:8] != _PNG_SIGNATURE or len(item.image) < 24:
        raise ValueError(f"the image of gallery item {number} ({item.question!r}) is not a PNG")
    width, height = struct.unpack(">II", item.image[16:24])
    scale = max(1, _GALLERY_IMAGE_WIDTH // max(width, height, 1))
    return {
        "item": item,
        "number": number,
        "source": "data:image/png;base64," + base64.b64encode(item.image).decode("ascii"),
        "width": width * scale,
        "height": height * scale,
    }


def _facts(metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """List the rows of the table of facts."""
    facts = []
    for key, name, wording in (
        ("questions", "Held-out questions", "{:,}".format),
        ("train_seconds", "Training time", lambda seconds: f"{duration(seconds)} ({seconds:,.1f} s)"),
        ("parameters", "Parameters", "{:,}".format),
        ("seed", "Seed", str),
    ):
        if is_number(metrics.get(key)):
            facts.append((name, wording(metrics[key])))
    rows = loss_rows(log_history)
    for key, name in _THROUGHPUT.items():
        values = [row[key] for row in rows if is_number(row.get(key))]
        if values:
            middle = median(values)
            facts.append((f"{name}, median", f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"))
    for key, value in metrics.items():
        if key not in _SHOWN_ELSEWHERE and isinstance(value, (str, int, float)):
            unknown = isinstance(value, float) and not math.isfinite(value)
            facts.append((key.replace("_", " ").capitalize(), "not a finite number" if unknown else str(value)))
    versions = metrics.get("versions") or {}
    facts.extend((name, str(version)) for name, version in versions.items())
    return facts
