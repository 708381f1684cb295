"""The results of an evaluation → its report."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from smol_hf.data.conversation import ImagePart, VideoPart
from smol_hf.data.media.images import load_image
from smol_hf.data.media.videos import ListedVideo, load_frames
from smol_hf.data.report.preview_drawing import PIXEL_ART, data_url
from smol_hf.evaluation.baselines import ASKED, BASELINES, BLIND, MAJORITY, SHUFFLED
from smol_hf.evaluation.report.page import (
    BASELINE,
    SEEING,
    Bar,
    Card,
    Gallery,
    Group,
    Page,
    ScorePanel,
    Shown,
    Table,
    shown_png,
    write_page,
)
from smol_hf.evaluation.scoring import Row
from smol_hf.metrics.scores import METRICS
from smol_hf.processing.video_sampling import VideoSampling
from smol_hf.support.formatting import duration, percent

EXAMPLES = 12  # of each gallery
IMAGE_SIDE, FRAME_SIDE = 320, 128
IMAGES_SHOWN, FRAMES_SHOWN = 4, 8  # of a question
GROUP_TITLES = {"per_source": "source", "per_kind": "kind", "per_length": "answer of"}
LABELS = {BLIND: "Without images", SHUFFLED: "Other images", MAJORITY: "Commonest answer"}


def write_report(path: Path, results: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write the report of an evaluation.

    Args:
        results: the content of `results.json`.
        rows: of the evaluation, in the order of the data.
    """
    count = f"{results['questions']:,} held-out questions"
    page = Page(
        f"Evaluation of {results['checkpoint']}",
        f"{count} of {results['data']}",
        [panel_of(name, results) for name in results["metrics"]],
        galleries_of(rows, results["settings"]["seed"]),
        facts_of(results),
        tables=list(tables_of(results)),
    )
    write_page(path, page)


def shown_score(name: str, score: float) -> str:
    return percent(score) if METRICS[name].higher_is_better else f"{score:.3f}"


def panel_of(name: str, results: dict[str, Any]) -> ScorePanel:
    """Return the panel of a metric: all questions, then the groups."""
    figures = results["metrics"][name]
    low, high = (shown_score(name, figures[each]) for each in ("low", "high"))
    explanations = [f"{LABELS[each]}: {BASELINES[each]}." for each in figures["baselines"]]
    groups = [
        Group(f"{title} {group}" if key != "per_kind" else group, (counted_in(each["metrics"][name]),), bars)
        for key, title in GROUP_TITLES.items()
        if len(results[key]) > 1
        for group, each in results[key].items()
        if name in each["metrics"] and (bars := bars_of(name, each["metrics"][name]))
    ]
    better = "" if figures["higher_is_better"] else ", lower is better"
    return ScorePanel(
        shown_score(name, figures["score"]),
        f"{name}{better}; 95 % interval {low} to {high}",
        bars_of(name, figures),
        " ".join(explanations),
        groups,
    )


def counted_in(figures: dict[str, Any]) -> str:
    return f"{figures['questions']:,} questions"


def bars_of(name: str, figures: dict[str, Any]) -> list[Bar]:
    named = [("Model", SEEING, figures)]
    named += [(LABELS[each], BASELINE, scores) for each, scores in figures["baselines"].items()]
    return [
        Bar(label, each["score"], shown_score(name, each["score"]), style, each["low"], each["high"])
        for label, style, each in named
    ]


def tables_of(results: dict[str, Any]) -> Iterator[Table]:
    for each in results["against"]:
        columns = ("metric", "this model", "the other", "difference", "95 % interval", "probability", "questions")
        rows = [
            (
                name,
                shown_score(name, found["score"]),
                shown_score(name, found["other"]),
                f"{found['difference']:+.3f}",
                f"{found['low']:+.3f} to {found['high']:+.3f}",
                percent(found["probability"]),
                f"{found['questions']:,}",
            )
            for name, found in each["metrics"].items()
        ]
        note = f"Probability that the difference has this sign: {each['method']}."
        yield Table(f"Compared with {each['name']}", columns, rows, note)
    if (table := results["confusion"]) is not None:
        columns = ("right answer", *(f"answered {each}" if each != "other" else each for each in table["given"]))
        rows = [(right, *map(str, counts)) for right, counts in zip(table["right"], table["counts"])]
        yield Table("Given and right answers", columns, rows, 'Answers that are never right count as "other".')


def galleries_of(rows: Sequence[Row], seed: int) -> list[Gallery]:
    """Return the worst answers (wrong ones with the least likely reference first), and a random choice."""

    def badness(row: Row) -> tuple[float, float]:
        name = row.question.metrics[0]
        score = row.scores[ASKED][name] * (1 if METRICS[name].higher_is_better else -1)
        return score, -(row.entry["nats"] or 0.0)

    worst = sorted(rows, key=badness)[:EXAMPLES]
    chosen = random.Random(seed).sample(range(len(rows)), min(EXAMPLES, len(rows)))
    examples = [rows[each] for each in sorted(chosen)]
    of = "clips" if any(row.question.conversation.videos for row in rows) else "pages"
    return [
        Gallery("Worst answers", [card(row) for row in worst], of, "worst"),
        Gallery("Random answers", [card(row) for row in examples], of, "random"),
    ]


def card(row: Row) -> Card:
    question = row.question
    scores = ", ".join(f"{name} {shown_score(name, score)}" for name, score in row.scores[ASKED].items())
    truth = " | ".join(dict.fromkeys(question.references))
    facts = {"Score": scores, "Row": question.where}
    return Card(question.kind, question.text, row.answer, truth, row.is_right, list(shown_media(row)), facts)


def shown_media(row: Row) -> Iterator[Shown]:
    """Yield small copies of the first images and of frames of the first video."""
    conversation = row.question.conversation
    for part in conversation.media[:IMAGES_SHOWN]:
        if isinstance(part, ImagePart):
            yield shown_image(load_image(part, row.question.where), IMAGE_SIDE)
    yield from (shown for video in conversation.videos[:1] for shown in shown_frames(video, row.question.where))


def shown_frames(video: VideoPart, where: str) -> Iterator[Shown]:
    chosen = ListedVideo(video, where).choose(VideoSampling(max_frames=FRAMES_SHOWN))
    for time, frame in zip(chosen.times, islice(load_frames(video, chosen, where), FRAMES_SHOWN)):
        yield shown_image(frame, FRAME_SIDE, f"{time:g} s")


def shown_image(image: Image.Image, most: int, time: str = "") -> Shown:
    """Show an image of at most `most` pixels; small ones are enlarged and keep every pixel."""
    if max(image.size) <= min(PIXEL_ART, most):
        stream = io.BytesIO()
        image.save(stream, "png")
        return shown_png(stream.getvalue(), most, time)
    scale = min(1.0, most / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return Shown(data_url(image, most), width, height, time)


def facts_of(results: dict[str, Any]) -> dict[str, str]:
    """Return the rows of the table of facts."""
    settings = results["settings"]
    facts = {"Held-out questions": f"{results['questions']:,}", "Rows left out": f"{results['skipped']:,}"}
    if results["loss"] is not None:
        measured = f"(of {results['measured_references']:,} references)"
        facts["Loss of the references"] = f"{results['loss']:.4f} nats per token {measured}"
        facts["Bits per byte of the references"] = f"{results['bits_per_byte']:.4f} {measured}"
    facts["First prompt"] = results["prompt"]
    facts["Decoding"] = f"{settings['decoding']}, at most {settings['max_new_tokens']} new tokens, {settings['dtype']}"
    facts |= {name.replace("_", " ").capitalize(): str(value) for name, value in settings["processor"].items()}
    facts["Data fingerprint"] = settings["data_fingerprint"]
    facts["Model fingerprint"] = settings["model_fingerprint"]
    facts["Seed"] = str(settings["seed"])
    facts["Hardware"] = results["hardware"]
    facts["Time"] = duration(results["seconds"])
    return facts | results["versions"]
