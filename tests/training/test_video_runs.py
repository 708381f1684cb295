"""Runs on videos: training, the keys of the recipe, the lists of what is lost, and the commands of the data."""

import json
import os

import pytest
import yaml
from helpers import build_processor
from PIL import Image
from processes import call
from tiny_runs import RECIPE
from transformers import AutoProcessor
from video_clips import clip, even_times

from smol_hf import train
from smol_hf.data.stream import size_cache
from smol_hf.data.stream.survey import Size
from smol_hf.processing.video_reader import reader_name
from smol_hf.training.checkpoint.fingerprints import fingerprint
from smol_hf.training.data import open_data, plan_of
from smol_hf.training.log.console import read_log
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments

KEYS = {"video_fps": 2, "video_max_frames": 6, "video_min_frames": 2, "video_frame_size": 32}


def asked(video, **part):
    content = [{"type": "video", "video": video, **part}, {"type": "text", "text": "Which digit?"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Seven."}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos, texts, and a recipe of both."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "a.mp4").write_bytes(clip(even_times(60)))
    (folder / "page.mp4").write_text("<html>404</html>")
    rows = [asked("a.mp4"), asked("a.mp4", start=0.5, end=1.5), asked("page.mp4"), asked("missing.mp4")] * 4
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "one two"}]}
    (folder / "texts.jsonl").write_text((json.dumps(text) + "\n") * 8)
    return folder


def recipe_of(folder, output, **keys):
    mixture = [
        {"data": str(folder / "films.jsonl"), "modality": "video"},
        {"data": str(folder / "texts.jsonl"), "modality": "text"},
    ]
    recipe = {key: value for key, value in RECIPE.items() if key not in ("data", "num_pages")}
    recipe |= {"mixture": mixture, "max_steps": 2, "save_steps": 1, "on_bad_sample": "skip", "output_dir": str(output),
               "max_skipped_fraction": 0.6, "sample_packing": True, "per_device_train_batch_size": 1}  # fmt: skip
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**recipe, **KEYS, **keys}))
    return str(path)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    recipe = recipe_of(folder, output)
    done = call(["train", "--config", recipe])
    assert done.returncode == 0, done.stderr
    return output, recipe, done.stdout


def test_a_run_trains_on_videos_and_says_how_it_reads_them(run):
    output, _, printed = run
    assert "a video is read by PyAV " in printed and "becomes 2 to 6 frames, 2 per second" in printed
    entries = [entry for entry in read_log(output) if "loss" in entry]
    assert len(entries) == 2 and all(entry["loss"] > 0 for entry in entries)
    facts = json.loads((output / "mixture.json").read_text())
    films = facts["sources"][0]
    assert films["tiles"] > 0 and not films["other_modality"] and films["skipped"] > 0


def test_bad_videos_are_listed_by_name(run):
    entries = [json.loads(line) for line in (run[0] / "skipped.jsonl").read_text().splitlines()]
    assert [entry["sample"] for entry in entries] == [f"films.jsonl:{n}" for n in (3, 4, 7, 8, 11, 12, 15, 16)]
    assert "page.mp4 cannot be used: it is damaged, or not MP4" in entries[0]["reason"]
    assert "missing.mp4 cannot be used: it does not exist" in entries[1]["reason"]


def test_the_keys_are_saved_with_the_checkpoint_and_kept_without_keys(run, folder, tmp_path):
    processor = AutoProcessor.from_pretrained(run[0] / "checkpoint", trust_remote_code=True)
    assert {key: getattr(processor, key) for key in KEYS} == KEYS and processor.video_style == "smolvlm"
    facts = json.loads(
        call(["data", "stats", folder / "films.jsonl", "--model", run[0] / "checkpoint", "--json"]).stdout
    )
    assert facts["all"]["frames"] == {"total": 24, "mean": 3.0, "median": 3.0, "p95": 4.0, "max": 4}
    assert facts["all"]["seconds"]["total"] == 12.0
    printed = call(["data", "stats", folder / "films.jsonl", "--model", run[0] / "checkpoint", "--video_fps", "5"])
    assert "frames" in printed.stdout and "5.5" in printed.stdout


def test_other_frames_are_refused_on_resume(run, capsys):
    words = ["--config", run[1], "--resume_from_checkpoint", "true", "--max_steps", "3", "--video_fps", "3"]
    assert train.main(words) == 1
    assert "video_fps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"video_fps": 0}, "video_fps is 0"),
        ({"video_max_frames": 1000}, "video_max_frames is 1000: it must be at most 999"),
        ({"video_min_frames": 0}, "video_min_frames is 0"),
        ({"video_style": "plain"}, "video_style is 'plain'"),
        ({"video_frame_size": 0}, "video_frame_size is 0"),
    ],
)
def test_values_that_are_refused(keys, problem):
    with pytest.raises(ValueError, match=problem):
        DataArguments(**keys)


def test_keys_that_contradict_each_other(folder, tmp_path, capsys):
    assert train.main(["--config", recipe_of(folder, tmp_path / "run", video_min_frames=9)]) == 1
    assert "video_min_frames 9 and video_max_frames 6 must be in order" in capsys.readouterr().err


def test_the_preview_shows_the_frames_with_their_times(run, folder, tmp_path):
    page = tmp_path / "page.html"
    words = ["data", "preview", folder / "films.jsonl", "--model", run[0] / "checkpoint", "--output", page]
    done = call(words)
    assert done.returncode == 0
    assert f"a video is read by {reader_name()} and becomes 2 to 6 frames" in done.stdout
    html = page.read_text()
    assert f"a video is read by {reader_name()}" in html
    assert '<figcaption class="quiet">0:01.97</figcaption>' in html and 'alt="Frame at 0.00 s"' in html
    assert "video of 2.0 s: 4 frames, one tile and 7 tokens each" in html and "0 images" not in html
    assert "page.mp4 cannot be used" in html


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measure a record with one video, from the cache if possible → (frames, seconds, surveys so far)."""
    monkeypatch.setattr(size_cache, "cached_assets_path", lambda *names: tmp_path)
    surveyed, survey = [], size_cache.survey
    monkeypatch.setattr(size_cache, "survey", lambda *args, **options: surveyed.append(1) or survey(*args, **options))

    def frames(video, processor):
        path = tmp_path / "rows.jsonl"
        if not path.exists():
            path.write_text(json.dumps(asked(video)) + "\n")
        arguments = DataArguments(data=str(path), context_length=2000)
        data = open_data(arguments, seed=0)
        training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
        data.found = size_cache.measured(plan_of(data, processor, arguments, training, 1))
        fingerprint(data, read_images=False)
        (size,) = data.found.found.values()
        return (size.num_frames, size.seconds, len(surveyed)) if isinstance(size, Size) else (size, len(surveyed))

    return frames


def test_sizes_are_measured_again_for_another_video_or_other_frames(measure, tmp_path):
    (tmp_path / "b.mp4").write_bytes(clip(even_times(60)))
    processor = build_processor()
    assert measure("b.mp4", processor) == (2, 2.0, 1)
    assert measure("b.mp4", processor) == (2, 2.0, 1), "from the cache"
    assert measure("b.mp4", processor.with_settings(video_fps=4)) == (8, 2.0, 2)
    (tmp_path / "b.mp4").write_bytes(clip(even_times(90)))
    assert measure("b.mp4", processor) == (3, 3.0, 3)


def test_sizes_are_measured_again_when_a_folder_of_frames_changes(measure, tmp_path):
    processor, folder = build_processor(), tmp_path / "frames"
    missing, number = measure("frames", processor)
    assert "does not exist" in str(missing) and number == 1
    folder.mkdir()
    empty, number = measure("frames", processor)
    assert "it has no frames" in str(empty) and number == 2
    for second in range(3):
        Image.new("RGB", (16, 16), (second, 0, 0)).save(folder / f"{second}.png")
    assert [measure("frames", processor) for _ in range(2)] == [(3, 3.0, 3)] * 2
    Image.new("RGB", (16, 16)).save(folder / "3.png")
    assert [measure("frames", processor) for _ in range(2)] == [(4, 4.0, 4)] * 2
    (folder / "3.png").rename(folder / "9.png")
    assert measure("frames", processor) == (4, 16.0, 5)
    (folder / "9.png").unlink()
    assert measure("frames", processor) == (3, 3.0, 6)


def test_a_name_with_other_bytes_than_utf8_is_a_name(measure, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    (folder / os.fsdecode(b"1.p\xff")).write_bytes((folder / "0.png").read_bytes())
    fault, _ = measure("frames", build_processor())
    assert "such as 12.5.jpg, not '1.p\\udcff'" in str(fault) and str(fault).encode()
