"""The benchmark of moving digits, shortened: the chain of three stages, its figures and its report."""

import json
import os
import runpy
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from smol_hf.commands.main import main

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "moving_digits.py"
SHORT = ["--max-steps", "2", "--questions", "8", "--num_pages", "60", "--dataloader_num_workers", "0"]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Run the benchmark once, even if two processes of pytest share the tests of this file."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    output, line = folder / "moving_digits", folder / "moving_digits.json"
    with FileLock(folder / "moving_digits.lock"):
        if not line.exists():
            line.write_text(json.dumps(runpy.run_path(str(BENCHMARK))["measure"](output, SHORT)))
    return output, json.loads(line.read_text())


def test_the_line_has_every_score_and_names_the_missed_targets(output):
    _, line = output
    assert {"video", "blind", "single_frame", "image_before", "image_after", "direction_video", "order_single_frame",
            "stage_seconds", "seconds"} <= set(line)  # fmt: skip
    assert line["questions"] == 8 and line["steps"] == 6
    assert "video" in line["missed"] and line["video"] < 0.85  # two steps teach nothing


def test_each_stage_continues_from_the_one_before(output):
    folder, _ = output
    recipes = [yaml.safe_load((folder / stage / "recipe.yaml").read_text()) for stage in ("text", "image", "video")]
    assert recipes[0].get("model") is None
    assert [recipe["model"] for recipe in recipes[1:]] == [
        str(folder / stage / "checkpoint") for stage in ("text", "image")
    ]
    sources = {each["name"]: each for each in json.loads((folder / "video" / "mixture.json").read_text())["sources"]}
    assert set(sources) == {"digit_clips", "digits"}
    assert sources["digit_clips"]["tiles"] == 5 * sources["digit_clips"]["samples"] > 0


def test_the_report_shows_frames_and_baselines(output):
    folder, _ = output
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("data:image/png") == 8 * 5
    for text in ("With the frames", "Without the frames", "With a single frame", "after the image stage"):
        assert text in page


def test_the_targets_are_judged():
    summary_of = runpy.run_path(str(BENCHMARK))["summary_of"]

    def metrics(**changes):
        kind = {"exact_match": 0.9, "single_exact_match": changes.pop("single", 0.5)}
        before, after = changes.pop("image", (0.95, 0.93))
        return {
            "exact_match": 0.9, "blind_exact_match": 0.2, "single_exact_match": 0.5, "questions": 8, "steps": 3,
            "per_kind": {"direction": kind, "order": kind, "digit": kind}, "stage_seconds": {"text": 1.0},
            "pages": {"image": {"exact_match": before}, "video": {"exact_match": after}}, **changes,
        }  # fmt: skip

    assert summary_of(metrics())["missed"] == []
    assert summary_of(metrics(exact_match=0.84))["missed"] == ["video"]
    assert summary_of(metrics(blind_exact_match=0.51))["missed"] == ["blind"]
    assert summary_of(metrics(single=0.7))["missed"] == ["single_frame"]
    assert summary_of(metrics(image=(0.95, 0.91)))["missed"] == ["image"]


def test_a_recipe_and_video_exclude_each_other(tmp_path, capsys):
    assert main(["demo", "--video", "--config", "digits", "--output", str(tmp_path / "x")]) == 1
    assert "excludes --video" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
