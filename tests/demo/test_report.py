from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import matplotlib
import pytest
from PIL import Image

from smol_hf.demo.charts import loss_chart, rate_chart, unfreeze_mark
from smol_hf.demo.report import GalleryItem, write_report
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


def png(width: int = 32, height: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 200).save(buffer, "PNG")
    return buffer.getvalue()


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


METRICS = {
    "exact_match": 0.97,
    "blind_exact_match": 0.18,
    "per_kind": {
        "number": {"exact_match": 0.95, "blind_exact_match": 0.05, "questions": 300},
        HOSTILE: {"exact_match": 0.99, "blind_exact_match": 0.31, "questions": 300},
    },
    "questions": 600,
    "train_seconds": 240.1,
    "parameters": 1234567,
    "seed": 7,
    "versions": {"torch": "2.13.0"},
}
GALLERY = [
    GalleryItem(png(), "number", HOSTILE, " 42", "42"),
    GalleryItem(png(), "number", "Which number?", "<b>43</b>", "42"),
    GalleryItem(png(400, 300), "count", "How many?", "", "3"),
]


def report(tmp_path, *, metrics=METRICS, log_history=None, gallery=GALLERY, title="Digits") -> str:
    log_history = log() if log_history is None else log_history
    path = write_report(
        tmp_path / "deep" / "report.html", title=title, metrics=metrics, log_history=log_history, gallery=gallery
    )
    return path.read_text("utf-8")


def line_path(svg: str, gid: str) -> str:
    return re.search(rf'<g id="{gid}">\s*<path d="([^"]*)"', svg).group(1)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = Page(report(tmp_path))
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert "url(" not in (attributes.get("style") or "")
        assert not any(name.startswith("on") for name in attributes)
    html = report(tmp_path, metrics={"exact_match": 1.0}, gallery=[])
    assert "//" not in html and "@import" not in html


def test_foreign_text_is_shown_and_not_interpreted(tmp_path):
    page = Page(report(tmp_path, title=HOSTILE))
    shown = page.text
    assert shown.count(HOSTILE) == 5  # title element, heading, kind, question
    assert "<b>43</b>" in shown
    assert not [tag for tag, _ in page.elements if tag in {"script", "image", "b"}]


def test_scores_stand_beside_the_blind_baseline_overall_and_per_kind(tmp_path):
    page = Page(report(tmp_path))
    widths = [attributes["style"] for attributes in page.with_class("fill")]
    assert widths == [f"width:{width}%" for width in ("97.00", "18.00", "95.00", "5.00", "99.00", "31.00")]
    assert [len(page.with_class(style)) for style in ("seeing", "blind")] == [3, 3]
    for text in ("97.0%", "18.0%", "5.0%", "31.0%", "300 questions"):
        assert text in page.text


def test_facts_are_listed(tmp_path):
    text = Page(report(tmp_path)).text
    for fact in ("Held-out questions 600", "4 min 0 s (240.1 s)", "1,234,567", "Seed 7", "torch 2.13.0", "1,006"):
        assert fact in text


def test_right_and_wrong_are_said_in_words(tmp_path):
    page = Page(report(tmp_path))
    assert page.text.count("✓ right") == 1 and page.text.count("✗ wrong") == 2
    assert "1 of the 3 shown is right." in page.text
    assert [item.correct for item in GALLERY] == [True, False, False]


def test_pages_are_enlarged_by_whole_factors_and_keep_their_pixels(tmp_path):
    html = report(tmp_path)
    images = [attributes for tag, attributes in Page(html).elements if tag == "img"]
    assert [(image["width"], image["height"]) for image in images] == [("192", "192"), ("192", "192"), ("400", "300")]
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] for image in images)
    assert "image-rendering: pixelated" in html


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path, missing):
    whole = line_path(loss_chart(log()), "loss-line")
    broken = line_path(loss_chart(log(losses={5: missing, 6: missing})), "loss-line")
    assert (whole.count("M"), broken.count("M")) == (1, 2)
    assert broken.count("M") + broken.count("L") == 10
    page = Page(report(tmp_path, log_history=log(losses={5: missing, 6: None})))
    assert "2 logged losses were not finite" in page.text


def test_the_unfreezing_of_the_vision_encoder_is_marked(tmp_path):
    assert unfreeze_mark(log(unfreeze_at=6)) == (6, True)
    page = Page(report(tmp_path, log_history=log(unfreeze_at=6)))
    assert len([1 for _, attributes in page.elements if attributes.get("id") == "unfreeze-mark"]) == 1
    assert "vision unfrozen at step 6" in page.text
    every_tenth = [{**row, "step": row["step"] * 10} for row in log(unfreeze_at=6)]
    assert unfreeze_mark(every_tenth) == (60, False)
    assert "vision unfrozen by step 60" in loss_chart(every_tenth)


def test_no_mark_where_nothing_was_unfrozen():
    assert unfreeze_mark(log(unfreeze_at=1)) is None
    assert unfreeze_mark(log(unfreeze_at=99)) is None
    assert unfreeze_mark([{"step": 1, "loss": 1.0, "learning_rate": 1e-3}]) is None
    warm_up = [{"step": step, "loss": 1.0, "learning_rate_vision": rate, "learning_rate_text": rate}
               for step, rate in ((1, 0.0), (2, 1e-4), (3, 1e-3))]  # fmt: skip
    assert unfreeze_mark(warm_up) is None
    assert "unfrozen" not in loss_chart(warm_up)


def test_the_rate_of_each_part_is_drawn():
    svg = rate_chart(log())
    for part in ("vision", "connector", "text"):
        assert f">{part}<" in svg
    assert all(f'id="rate-line-{index}"' in svg for index in range(3))
    assert "all parts" in rate_chart([{"step": s, "loss": 1.0, "learning_rate": 1e-3} for s in (1, 2)])
    assert rate_chart([{"step": 1, "loss": 1.0}]) is None


def test_no_two_elements_share_an_id_and_colours_follow_the_theme(tmp_path):
    html = report(tmp_path)
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))
    charts = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--series-1)" in charts and not re.search(r"#[0-9a-f]{6}", charts)
    assert "prefers-color-scheme: dark" in html


def test_sections_without_data_are_left_out(tmp_path):
    page = Page(report(tmp_path, metrics={"exact_match": 1}, log_history=[{"step": 1, "loss": None}], gallery=[]))
    assert [a["id"] for tag, a in page.elements if tag == "h2"] == ["score"]
    assert "blind" not in page.text.lower() and "100.0%" in page.text


def test_the_same_input_gives_the_same_bytes_whatever_the_matplotlib_settings(tmp_path):
    first = report(tmp_path)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert report(tmp_path) == first


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="exact_match is nan"):
        report(tmp_path, metrics={"exact_match": float("nan")})
    with pytest.raises(ValueError, match="loss but no step"):
        report(tmp_path, log_history=[{"loss": 1.0}])
    with pytest.raises(ValueError, match=r"gallery item 1 .*'why'.* not a PNG"):
        report(tmp_path, gallery=[GalleryItem(b"GIF89a", "count", "why", "1", "1")])


def test_numbers_in_words():
    assert [percent(x) for x in (0.973, 1, 0.9999, 0, 0.0001)] == ["97.3%", "100.0%", "99.9%", "0.0%", "0.1%"]
    assert [compact(x) for x in (999, 1234567, 999_999, 2.25e9)] == ["999", "1.23 M", "1 M", "2.25 B"]
    assert [duration(x) for x in (0.53, 59.9, 240.1, 7384)] == ["0.5 s", "59 s", "4 min 0 s", "2 h 3 min"]
