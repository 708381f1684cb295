"""Score the answers of the demo, and write its report with the page of `smol-hf evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

from smol_hf.data.conversation import VideoPart
from smol_hf.data.digits import Asked
from smol_hf.evaluation.report.charts import PARTS, finite_losses, loss_chart, needs_log_scale, rate_chart
from smol_hf.evaluation.report.page import (
    BASELINE,
    SEEING,
    Bar,
    Card,
    Gallery,
    Group,
    Page,
    ScorePanel,
    shown_png,
    write_page,
)
from smol_hf.evaluation.statistics import grouped
from smol_hf.metrics.scores import exact_match, mean
from smol_hf.support.formatting import compact, duration, percent

# Pages are enlarged by an integer factor up to this width in CSS pixels, so that all pixels have the same size.
GALLERY_IMAGE_WIDTH = 192
GALLERY_SIZE = 30
FRAME_WIDTH = 64  # of a clip, likewise
SINGLE = "single_exact_match"
THROUGHPUT = ("tokens_per_second", "trained_tokens_per_second", "samples_per_second")


@dataclass(frozen=True)
class Answered:
    """A held-out page or clip with the model's answer to its question.

    `blind` is the answer without the image or frames, and `single` that to a single frame of a clip.
    """

    page: Asked
    answer: str
    blind: str
    single: str | None = None

    @property
    def correct(self) -> bool:
        return self.is_right(self.answer)

    def is_right(self, answer: str) -> bool:
        return bool(exact_match(answer, [self.page.answer]))


@dataclass(frozen=True)
class Words:
    """Words of the report. `seeing`, `blind`, `single`: names of the scores. `explanation`: of the lower ones."""

    things: str = "pages"
    seeing: str = "With the image"
    blind: str = "Without the image"
    single: str = ""
    explanation: str = (
        "Without the image: the same model answers the same questions without the image. This score can be reached by "
        "guessing."
    )


OF_PAGES = Words()
OF_CLIPS = Words(
    "clips",
    "With the frames",
    "Without the frames",
    "With a single frame",
    "The same model answers the same questions. Without the frames, it can only guess. With a single frame, the "
    "middle one replaces every frame: the model sees digits, but nothing that moves, appears or leaves.",
)


def frames_of(asked: Asked) -> list[tuple[bytes, str]]:
    """Return the PNG files of a page or clip, each with its time in words ("" for a page)."""
    [part] = asked.conversation.media
    if isinstance(part, VideoPart):
        return [(png, f"{time:g} s") for png, time in zip(part.frames, part.times, strict=True)]
    assert part.content is not None  # pages are drawn in memory
    return [(part.content, "")]


def score(answered: Sequence[Answered]) -> dict[str, Any]:
    """Return `exact_match`, `blind_exact_match` (fractions of 1), `questions`, and these again in `per_kind`.

    Clips also have `single_exact_match`.
    """

    def fractions(chosen: Sequence[Answered]) -> dict[str, Any]:
        singles = [each.is_right(each.single) for each in chosen if each.single is not None]
        return {
            "exact_match": mean([each.correct for each in chosen]),
            "blind_exact_match": mean([each.is_right(each.blind) for each in chosen]),
            **({SINGLE: mean(singles)} if singles else {}),
            "questions": len(chosen),
        }

    kinds = sorted(grouped(answered, lambda each: each.page.kind))
    return {**fractions(answered), "per_kind": {kind: fractions(members) for kind, members in kinds}}


def write_report(
    path: Path,
    *,
    title: str,
    metrics: dict[str, Any],
    log: Sequence[dict[str, Any]],
    answered: Sequence[Answered],
    unfrozen_at: int,
    words: Words = OF_PAGES,
) -> None:
    """Write the report.

    Args:
        metrics: the content of the demo's `metrics.json`.
        log: the entries of the run's `log.jsonl`.
        answered: the first `GALLERY_SIZE` are shown. The first question of each kind explains the kind.
        unfrozen_at: step from which the image encoder is trained; 0 if it never was frozen.
        words: of the report.
    """
    rows = [row for row in log if "loss" in row]
    examples = {each.page.kind: each.page.question for each in reversed(answered)}
    parts = f"{compact(metrics['parameters'])} parameters", f"trained in {duration(metrics['train_seconds'])}"
    panel = ScorePanel(
        percent(metrics["exact_match"]),
        "of held-out questions answered exactly",
        bars_of(metrics, words),
        words.explanation,
        [
            Group(kind, (examples[kind], f"{scores['questions']} questions"), bars_of(scores, words))
            for kind, scores in metrics["per_kind"].items()
        ],
    )
    page = Page(
        title,
        " · ".join((*parts, f"{metrics['questions']:,} held-out questions")),
        [panel],
        [Gallery(f"Held-out {words.things}", [card(each) for each in answered[:GALLERY_SIZE]], words.things)],
        facts_of(metrics, rows),
        training_of(rows, unfrozen_at) if finite_losses(rows) else None,
    )
    write_page(path, page)


def bars_of(scores: dict[str, Any], words: Words) -> list[Bar]:
    shown = {"exact_match": (words.seeing, SEEING), "blind_exact_match": (words.blind, BASELINE)}
    shown[SINGLE] = (words.single, BASELINE)
    return [
        Bar(label, scores[name], percent(scores[name]), style)
        for name, (label, style) in shown.items()
        if name in scores
    ]


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


def card(answered: Answered) -> Card:
    """Return a page or clip of the gallery."""
    frames = frames_of(answered.page)
    most = GALLERY_IMAGE_WIDTH if len(frames) == 1 else FRAME_WIDTH
    images = [shown_png(png, most, time) for png, time in frames]
    page = answered.page
    return Card(page.kind, page.question, answered.answer, page.answer, answered.correct, images)


def facts_of(metrics: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the rows of the table of facts."""
    seconds = metrics["train_seconds"]
    facts = {
        "Held-out questions": f"{metrics['questions']:,}",
        "Training time": f"{duration(seconds)} ({seconds:,.1f} s)",
        **metrics.get("facts", {}),
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
