from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import matplotlib
import pytest
from PIL import Image

from smol_hf.data.conversation import Conversation, ImagePart, Message
from smol_hf.data.digits import Page as DigitPage
from smol_hf.data.digits import Turn, evaluation_clips
from smol_hf.demo.report import OF_CLIPS, Answered, score, write_report
from smol_hf.evaluation.report.charts import loss_chart, rate_chart
from smol_hf.support.formatting import compact, duration, percent

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "<script>alert(1)</script> what does <image> show? \"&' https://example.com/x.png"


class Page(HTMLParser):
    """Collects elements and visible text, and checks that every element is closed in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def answered(answer, truth, kind="number", question="Which number?", size=(32, 32), blind=""):
    buffer = io.BytesIO()
    Image.new("L", size, 200).save(buffer, "PNG")
    conversation = Conversation("page", (Message("user", (ImagePart(content=buffer.getvalue()),)),))
    return Answered(DigitPage(conversation, (Turn(kind, question, truth),), ()), answer, blind)


def log(steps: int = 12, unfreeze_at: int = 6, **changes) -> list[dict]:
    rows = [
        {
            "step": step,
            "loss": 2.0 / step,
            "learning_rate_vision": 0.0 if step < unfreeze_at else 1e-4,
            "learning_rate_connector": 1e-3,
            "learning_rate_text": 5e-4,
            "tokens_per_second": 1000.0 + step,
        }
        for step in range(1, steps + 1)
    ]
    for step, loss in changes.get("losses", {}).items():
        rows[step - 1]["loss"] = loss
    return [*rows, {"step": steps, "train_runtime": 240.1}]


def rows(**options):
    return log(**options)[:-1]


LOG = log()
METRICS = {
    "exact_match": 0.97,
    "blind_exact_match": 0.18,
    "per_kind": {
        "number": {"exact_match": 0.95, "blind_exact_match": 0.05, "questions": 300},
        "count": {"exact_match": 0.99, "blind_exact_match": 0.31, "questions": 300},
    },
    "questions": 600,
    "train_seconds": 240.1,
    "parameters": 1234567,
    "seed": 7,
    "steps": 12,
    "data_fingerprint": "a1b2",
    "versions": {"torch": "2.13.0"},
}
ANSWERED = [
    answered(" 42", "42", question=HOSTILE),
    answered("<b>43</b>", "42"),
    answered("", "3", kind="count", question="How many?", size=(400, 300)),
]


def report(tmp_path, *, metrics=METRICS, log=LOG, answered=ANSWERED, title="Digits", unfrozen_at=6) -> str:
    path = tmp_path / "report.html"
    write_report(path, title=title, metrics=metrics, log=log, answered=answered, unfrozen_at=unfrozen_at)
    return path.read_text("utf-8")


def line_path(svg: str, gid: str) -> str:
    return re.search(rf'<g id="{gid}">\s*<path d="([^"]*)"', svg).group(1)


def test_the_score_counts_exact_answers_overall_and_per_kind():
    everything = [*ANSWERED, answered("5", "5", blind="5 "), answered("5", "5", blind="6")]
    assert score(everything) == {
        "exact_match": 3 / 5,
        "blind_exact_match": 1 / 5,
        "questions": 5,
        "per_kind": {
            "count": {"exact_match": 0, "blind_exact_match": 0, "questions": 1},
            "number": {"exact_match": 3 / 4, "blind_exact_match": 1 / 4, "questions": 4},
        },
    }


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    html = report(tmp_path)
    for tag, attributes in Page(html).elements:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert "url(" not in (attributes.get("style") or "")
        assert not any(name.startswith("on") for name in attributes)
    html = report(tmp_path, answered=ANSWERED[1:])  # without the question that contains a URL
    assert "//" not in re.sub(r'src="data:[^"]*"', "", html) and "@import" not in html


def test_texts_are_shown_and_not_interpreted(tmp_path):
    metrics = {**METRICS, "per_kind": {"number": METRICS["per_kind"]["number"]}, "versions": {HOSTILE: HOSTILE}}
    page = Page(report(tmp_path, title=HOSTILE, metrics=metrics))
    assert page.text.count(HOSTILE) == 6  # title element, heading, example of the kind, question, fact and its name
    assert "<b>43</b>" in page.text
    assert not [tag for tag, _ in page.elements if tag in {"script", "image", "b"}]


def test_scores_and_the_scores_without_the_image_are_drawn_overall_and_per_kind(tmp_path):
    page = Page(report(tmp_path))
    widths = [attributes["style"] for attributes in page.with_class("fill")]
    assert widths == [f"width:{width}%" for width in ("97.00", "18.00", "95.00", "5.00", "99.00", "31.00")]
    assert [len(page.with_class(style)) for style in ("seeing", "blind")] == [3, 3]
    assert "Without the image" in page.text and "frame" not in page.text
    for text in ("97.0%", "18.0%", "5.0%", "31.0%", "300 questions", "How many?"):
        assert text in page.text


def test_facts_are_listed(tmp_path):
    text = Page(report(tmp_path)).text
    for fact in (
        "1.23 M parameters · trained in 4 min 0 s · 600 held-out questions", "Held-out questions 600",
        "4 min 0 s (240.1 s)", "1,234,567", "Seed 7", "Steps 12", "a1b2", "torch 2.13.0",
        "Tokens per second, median 1,006",
    ):  # fmt: skip
        assert fact in text


def test_right_and_wrong_are_said_in_words(tmp_path):
    page = Page(report(tmp_path))
    assert page.text.count("✓ right") == 1 and page.text.count("✗ wrong") == 2
    assert "1 of these 3 answers are right." in page.text
    assert [each.correct for each in ANSWERED] == [True, False, False]


def test_pages_are_enlarged_by_integer_factors_and_keep_their_pixels(tmp_path):
    html = report(tmp_path)
    images = [attributes for tag, attributes in Page(html).elements if tag == "img"]
    assert [(image["width"], image["height"]) for image in images] == [("192", "192"), ("192", "192"), ("400", "300")]
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] for image in images)
    assert "image-rendering: pixelated" in html


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path, missing):
    complete = line_path(loss_chart(rows()), "loss-line")
    broken = line_path(loss_chart(rows(losses={5: missing, 6: missing})), "loss-line")
    assert (complete.count("M"), broken.count("M")) == (1, 2)
    assert broken.count("M") + broken.count("L") == 10
    page = Page(report(tmp_path, log=log(losses={5: missing, 6: None})))
    assert "2 logged losses were not finite" in page.text


def test_the_unfreezing_of_the_image_encoder_is_marked(tmp_path):
    page = Page(report(tmp_path, unfrozen_at=6))
    assert len([1 for _, attributes in page.elements if attributes.get("id") == "unfreeze-mark"]) == 1
    assert "vision unfrozen at step 6" in page.text and "frozen until the dotted line" in page.text
    for never in (0, 99):
        assert "unfrozen" not in report(tmp_path, unfrozen_at=never)


def test_the_rate_of_each_part_is_drawn(tmp_path):
    svg = rate_chart(rows())
    for part in ("vision", "connector", "text"):
        assert f">{part}<" in svg and f'id="rate-{part}"' in svg
    page = Page(report(tmp_path, log=log(unfreeze_at=99)))
    assert "Highest logged: vision 0 (frozen), connector 0.001, text 0.0005." in page.text


def test_no_two_elements_share_an_id_and_colours_follow_the_theme(tmp_path):
    html = report(tmp_path)
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))
    charts = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--series-1)" in charts and not re.search(r"#[0-9a-f]{6}", charts)
    assert "prefers-color-scheme: dark" in html


def test_without_a_finite_loss_there_are_no_charts(tmp_path):
    page = Page(report(tmp_path, log=[{**log()[0], "loss": float("nan")}]))
    assert [a["id"] for tag, a in page.elements if tag == "h2"] == ["score", "gallery", "facts"]


def test_the_same_input_gives_the_same_bytes_whatever_the_matplotlib_settings(tmp_path):
    first = report(tmp_path)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert report(tmp_path) == first


def test_numbers_in_words():
    assert [percent(x) for x in (0.973, 1, 0.9999, 0, 0.0001)] == ["97.3%", "100.0%", "99.9%", "0.0%", "0.1%"]
    assert [compact(x) for x in (999, 1234567, 999_999, 2.25e9)] == ["999", "1.23 M", "1 M", "2.25 B"]
    assert [duration(x) for x in (0.53, 59.9, 240.1, 7384)] == ["0.5 s", "59 s", "4 min 0 s", "2 h 3 min"]


def test_clips_have_all_frames_with_their_times_and_the_score_of_a_single_one(tmp_path):
    clips = evaluation_clips(8, seed=0)
    everything = [Answered(clip, clip.answer, "", "9" if number else clip.answer) for number, clip in enumerate(clips)]
    scores = score(everything)
    assert (scores["exact_match"], scores["blind_exact_match"], scores["single_exact_match"]) == (1, 0, 1 / 8)
    path = tmp_path / "report.html"
    facts = {**METRICS, **scores, "facts": {"Score on pages": "97.0%"}}
    write_report(path, title="Clips", metrics=facts, log=LOG, answered=everything, unfrozen_at=0, words=OF_CLIPS)
    page = Page(path.read_text("utf-8"))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 8 * 5 and {(image["width"], image["height"]) for image in images} == {("64", "64")}
    assert images[7]["alt"] == "Held-out clips, 2, at 2 s"
    for text in ("Held-out clips", "With a single frame", "Without the frames", "0 s 1 s 2 s 3 s 4 s", "12.5%"):
        assert text in page.text
    assert "Score on pages 97.0%" in page.text
    assert len(page.with_class("blind")) == 2 * (1 + 4)  # overall and four kinds
