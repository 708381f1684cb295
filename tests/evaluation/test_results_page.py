"""The report: one file, scores with baselines and intervals, worst and random answers with their images, tables."""

import re

import pytest
from demo.test_report import HOSTILE, Page
from evaluation.held_out import evaluated, lines_of, save_rows
from video_clips import clip, even_times


@pytest.fixture(scope="module")
def report(vlm, tmp_path_factory):
    """An evaluation in which every second answer is right: (its page, its HTML, its results)."""
    place = tmp_path_factory.mktemp("report")
    data = save_rows(place / "data", rows=8, row1={"question": HOSTILE})
    evaluated(vlm, data, place / "first", baselines=["none"])
    texts = [each["prediction"] for each in lines_of(place / "first")]
    changes = {f"row{number}": {"answer": texts[number]} for number in range(0, 7, 2)}
    changes["row1"] = {"question": HOSTILE, "answer": "<b>1</b>"}
    data = save_rows(place / "data", rows=8, **changes)
    options = {"metric": ["exact_match", "word_error_rate"], "against": [str(place / "first")]}
    results = evaluated(vlm, data, place / "out", **options)
    html = (place / "out" / "report.html").read_text(encoding="utf-8")
    return Page(html), html, results


def test_the_scores_are_those_of_the_results(report):
    page, _, results = report
    figures = results["metrics"]["exact_match"]
    assert figures["score"] == 0.5 and figures["low"] < 0.5 < figures["high"]
    for text in ("50.0%", "exact_match; 95 % interval", "word_error_rate, lower is better", "Without images"):
        assert text in page.text
    assert "Compared with" in page.text and "paired bootstrap over rows, 2,000 resamples" in page.text
    widths = [float(each["style"][6:-1]) for each in page.with_class("fill")]
    assert widths[0] == 50 and all(0 <= width <= 100 for width in widths)
    assert len(page.with_class("interval")) == len(widths)


def test_answers_are_shown_with_their_images_and_can_be_filtered(report):
    page, html, _ = report
    assert page.text.count("✓ right") == 2 * 4 and page.text.count("✗ wrong") == 2 * 4
    assert page.text.count("4 of these 8 answers are right.") == 2
    verdicts = re.findall(r"verdict (right|wrong)", html[html.index('id="worst"') : html.index('id="random"')])
    assert verdicts == ["wrong"] * 4 + ["right"] * 4
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 2 * 7  # one row has no image
    assert all(each["src"].startswith("data:image/") and each["alt"] for each in images)
    assert [each["id"] for tag, each in page.elements if tag == "input"] == [
        "all-answers", "only-right", "only-wrong",
    ]  # fmt: skip
    assert "main:has(#only-wrong:checked) .card:not(.is-wrong)" in html


def test_nothing_is_loaded_and_texts_are_not_interpreted(report):
    page, html, _ = report
    assert not [tag for tag, _ in page.elements if tag in {"script", "b", "image", "iframe", "object"}]
    assert page.text.count(HOSTILE[:35]) == 2 and page.text.count("<b>1</b>") >= 2
    assert "//" not in re.sub(r'src="data:[^"]*"|https://example.com|https:[^<]*example', "", html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))


def test_given_and_right_answers_are_counted(vlm, tmp_path):
    data = save_rows(tmp_path / "data", rows=9)
    results = evaluated(vlm, data, tmp_path / "out", baselines=["none"], limit=8)
    table = results["confusion"]
    assert table["right"] == ["0", "1", "2"] and table["given"][-1] == "other"
    assert [sum(counts) for counts in table["counts"]] == [3, 3, 2]
    assert "Given and right answers" in Page((tmp_path / "out" / "report.html").read_text("utf-8")).text


def test_frames_of_videos_are_shown(vlm, tmp_path):
    pytest.importorskip("av", reason="videos need PyAV")
    changes = {f"row{number}": {"image": None, "video": f"{number}.mp4"} for number in range(3)}
    data = save_rows(tmp_path / "data", rows=4, **changes)
    for number in range(3):
        (tmp_path / "data" / f"{number}.mp4").write_bytes(clip(even_times(20 + 10 * number, 10)))
    results = evaluated(vlm, data, tmp_path / "out")
    baselines = results["metrics"]["exact_match"]["baselines"]
    assert (baselines["blind"]["questions"], baselines["shuffled"]["questions"]) == (3, 3)
    predictions = {(each["view"], each["sample"]): each["prediction"] for each in lines_of(tmp_path / "out")}
    for view in ("blind", "shuffled"):
        assert predictions[view, "held_out.jsonl:1"] != predictions["asked", "held_out.jsonl:1"]
    page = Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    times = [each["alt"] for tag, each in page.elements if tag == "img"]
    assert "Worst answers, 1, at 0 s" in times and any(each.endswith(", at 1.3 s") for each in times)
