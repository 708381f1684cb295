"""A dry run checks that the numbers of a recipe agree, without a download and without a step."""

import json
import socket
from pathlib import Path

import pytest
import yaml
from processes import call
from tiny_runs import PAIRS, RECIPE, words
from video_clips import clip, even_times

from smol_hf.commands.main import main
from smol_hf.estimate import dry_run as module
from smol_hf.estimate.dry_run import dry_run
from smol_hf.estimate.target import find_target
from smol_hf.support.resources import resource_path
from smol_hf.support.shipped_recipes import shipped_recipes
from smol_hf.training.model.presets import preset_config
from smol_hf.training.recipe.recipes import ARGUMENT_CLASSES, PREFERENCE_CLASSES, read_recipe
from smol_hf.training.recipe.values import RecipeError

MIXTURES = set(resource_path("recipes", "mixtures").glob("*.yaml"))
RECIPES = sorted(set(shipped_recipes().values()) - MIXTURES)
CHAT = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder without a network."""
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments):
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "my.jsonl").write_text(f"{json.dumps(CHAT)}\n" * 40)
    (tmp_path / "my.txt").write_text("A line.\n" * 40)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return tmp_path


def local_files(recipe, place):
    """What the recipe reads here: its files, and the result of the recipe before it."""
    for name in [recipe.get("data"), recipe.get("documents"), *(each["data"] for each in recipe.get("mixture", []))]:
        if name is not None and name.endswith((".jsonl", ".json", ".txt")):
            texts = {".txt": "A line.\n" * 40, ".json": json.dumps([CHAT] * 40)}
            path = place / name.replace("{data_root}", str(place))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts.get(path.suffix, f"{json.dumps(CHAT)}\n" * 40))
    if recipe.get("documents") == "long_documents":
        (place / "long_documents").mkdir()
        (place / "long_documents" / "my.txt").write_text("A line.\n")
    if (model := Path(recipe.get("model") or "")).name == "checkpoint":
        size = model.parent.name.rpartition("_")[2]
        preset = f"smollm2-{size if size.endswith(('m', 'b')) else '135m'}"
        config = find_target("tiny-vlm").config if "moving_digits" in model.parts else preset_config(preset)
        config.save_pretrained(place / model)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_recipe_is_consistent(path, place):
    recipe = read_recipe(path)
    local_files(recipe, place)
    preferences = path.stem.startswith("dpo")
    root = ["--data_root", str(place)] if "{data_root}" in json.dumps(recipe) else []
    classes = PREFERENCE_CLASSES if preferences else ARGUMENT_CLASSES
    traces = path.stem == "digits"  # the others take seconds each: test_estimate traces the presets
    (facts,) = dry_run(None, ["--config", str(path), *root], classes, traces=traces)
    if not facts["model"].endswith("its sizes are unknown"):  # of a model that the user has
        assert facts["parameters"]["text"] > 0 and facts["trained_parameters"] > 0
    assert facts["batch"]["global"] == recipe.get("global_batch_size", facts["batch"]["global"])
    assert facts["shares"] is None or sum(facts["shares"].values()) == pytest.approx(1)
    assert facts["steps"] == recipe["max_steps"] if recipe.get("max_steps", 0) > 0 else facts["epochs"]
    assert ("memory" in facts) == traces


def test_the_stages_of_the_description_have_its_numbers(place):
    names = ["smolvlm2_256m/vision_stage", "smolvlm2_256m/video_stage"]
    vision, video = dry_run(names, [], num_processes=8, traces=False)
    sums = {"cauldron": 0, "docmatix": 0, "llava-onevision": 0}
    for source in vision["sources"]:
        sums[source["name"].partition(":")[0]] += source["records"]
    assert sums == {"cauldron": 35_000, "docmatix": 41_000, "llava-onevision": 24_000}
    assert vision["batch"] == {"per_device": 8, "accumulation": 4, "processes": 8, "global": 256}
    assert vision["samples"] == 50_000 * 256 and video["samples"] == 30_000 * 256
    assert video["batch"]["accumulation"] == 8 and 2.2 < video["epochs"] < 2.6
    assert {name: round(100 * share, 1) for name, share in video["shares"].items()} == {
        "image": 34.3, "video": 33.1, "text": 20.3, "multiimage": 12.3,
    }  # fmt: skip
    assert video["model"] == "the result of an earlier stage, runs/smolvlm2-256m-vision/checkpoint"
    one_gpu, _ = dry_run(names, [], num_processes=1, traces=False)
    assert one_gpu["batch"] == {"per_device": 8, "accumulation": 32, "processes": 1, "global": 256}


@pytest.mark.parametrize("size", ["256m", "500m", "2b"])
def test_the_published_last_stages_have_their_steps(size, place):
    (facts,) = dry_run(None, ["--config", f"smolvlm2_{size}/last_stage"], num_processes=64, traces=False)
    steps = {"2b": 6_551}.get(size, 5_913)  # the last one is not full
    assert facts["steps"] == steps and facts["batch"]["global"] == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 6}, "global_batch_size is 6, but per_device_train_batch_size 4 × 2 processes does not"),
        (
            {"global_batch_size": 16, "gradient_accumulation_steps": 4},
            "global_batch_size is 16, but per_device_train_batch_size 4 × gradient_accumulation_steps 4 × 2 processes "
            "is 32",
        ),
        ({"data_lanes": 3}, "data_lanes 3 is not a multiple of 2 processes × 1 worker = 2: use 4 or 6"),
        ({"context_length": 300}, "context_length 300 is more than the 256 positions"),
        ({"context_length": 3}, "context_length 3 does not fit an image: one tile has 4 tokens"),
        ({"video_max_frames": 64}, "64 frames of 4 tokens do not fit context_length 256"),
        ({"warmup_steps": 8}, "warmup_steps 8 is not before the end of the run, which has 8 steps"),
        ({"unfreeze_vision_at_step": 8}, "unfreeze_vision_at_step 8 with vision_warmup_steps 0 is not before the end"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "decay_steps": 7},
            "a warmup of 2 and a decay of 7 steps do not fit into 8 steps",
        ),
        ({"data": "missing.jsonl", "num_pages": None}, "the data file missing.jsonl does not exist"),
        ({"text_config.num_attention_heads": 3}, "choose"),
        (
            {"model": "runs/none/checkpoint", **dict.fromkeys(("vision_config", "text_config"))},
            "there is no checkpoint",
        ),
    ],
)
def test_an_inconsistency_is_one_sentence(changes, message, place):
    keys = {key: value for key, value in {**RECIPE, "output_dir": "runs/x", **changes}.items() if value is not None}
    result = call(["train", *words(keys), "--dry-run", "--num-processes", 2])
    assert result.returncode == 1 and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (place / "runs").exists()


@pytest.fixture
def videos(place):
    """Rows of a clip of 3 seconds, and of one of 6: at one frame per second, 3 and 6 frames."""
    for seconds in (3, 6):
        (place / f"{seconds}.mp4").write_bytes(clip(even_times(seconds * 10, 10)))
    rows = [{"video": f"{seconds}.mp4", "question": "What?", "answer": "x"} for seconds in (3, 6)]
    (place / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {**{key: value for key, value in RECIPE.items() if key != "num_pages"}, "data": "videos.jsonl",
            "output_dir": "runs/x"}  # fmt: skip


def test_the_frames_of_local_videos_are_counted(videos):
    (facts,) = dry_run(None, words(videos), traces=False)
    assert facts["videos"] == {"rows": 2, "with_videos": 2, "mean": 4.5, "most": 6}
    rows = videos["per_device_train_batch_size"]
    assert facts["step"]["tiles"] == 6 * rows and 6 * 4 < facts["step"]["length"] < 256, "as long as the longest row"
    (packed,) = dry_run(None, words({**videos, "sample_packing": True}), traces=False)
    assert packed["step"]["length"] == 256 and 6 * rows < packed["step"]["tiles"] < 64 * rows, "several in a row"
    (fewer,) = dry_run(None, words({**videos, "video_max_frames": 2}), traces=False)
    assert fewer["videos"]["most"] == 2 and fewer["step"]["tiles"] == 2 * rows


def test_videos_are_not_for_a_language_model(videos, place, capsys):
    preset_config("tiny-text").save_pretrained(place / "base")
    keys = {"model": "base", "data": "videos.jsonl", "output_dir": "runs/x", "max_steps": 2}
    assert main(["train", *words(keys), "--dry-run"]) == 1
    assert "error: the data has images or videos, but the model is a language model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"global_batch_size": 0}, 1, "global_batch_size is 0"),
        ({"global_batch_size": -8}, 1, "global_batch_size is -8"),
        ({"global_batch_size": 2.5}, 1, "global_batch_size"),
        (
            {"global_batch_size": 5},
            1,
            "global_batch_size is 5, but per_device_train_batch_size 4 × 1 process does not",
        ),
        ({"global_batch_size": 5, "sample_packing": True}, 1, "does not divide it"),
        ({"global_batch_size": 8}, 3, "per_device_train_batch_size 4 × 3 processes does not divide it"),
        ({"per_device_train_batch_size": 0}, 1, "per_device_train_batch_size is 0"),
        ({"per_device_train_batch_size": -1}, 1, "per_device_train_batch_size is -1"),
        ({"gradient_accumulation_steps": 0}, 1, "gradient_accumulation_steps is 0"),
        ({}, 10**9, "at most 65,536 processes × workers can read the data"),
    ],
)
def test_odd_numbers_of_rows_are_one_sentence(changes, processes, message, place, capsys):
    keys = {**RECIPE, "output_dir": "runs/x", **changes}
    assert main(["train", *words(keys), "--dry-run", "--num-processes", str(processes)]) == 1
    error = capsys.readouterr().err.split("error: ")
    assert len(error) == 2 and message in error[1] and len(error[1].splitlines()) == 1


def test_a_step_of_more_rows_than_the_data_has_is_said(place, capsys):
    for size, warned in ((4 * 10**30, True), (40, False)):
        dry_run(None, words({**RECIPE, "output_dir": "runs/x", "global_batch_size": size}), traces=False)
        shown = f"warning: a step has {size:,} rows, and a round of the data has 40 records"
        assert (shown in capsys.readouterr().out) == warned


def test_a_dry_run_shows_parameters_memory_and_time(place):
    keys = {**RECIPE, "output_dir": "runs/x", "global_batch_size": 16}
    shown = call(["train", *words(keys), "--dry_run", "--num-processes=2", "--tflops", "0.5"])
    assert shown.returncode == 0, shown.stderr
    for text in (
        "a new model, random weights", "digits: 1 source on this machine, 40 records",
        "batch: 4 per device × 2 accumulated × 2 processes = 16", "steps 8, samples 128, epochs 3.2, at most 32.8 k",
        "a step of 4 × 256 tokens and 4 tiles", "peak", "at 0.5 TFLOP/s per process: at most", " s of training",
    ):  # fmt: skip
        assert text in shown.stdout, text
    assert not (place / "runs").exists()
    without = call(["train", *words(keys), "--dry-run"])
    assert "of training" not in without.stdout and "8 accumulated" not in without.stdout


def test_the_other_commands_have_a_dry_run(place):
    shown = call(["pretrain", "--data", "my.txt", "--preset", "tiny-text", "--output", "runs/p", "--dry-run"])
    assert shown.returncode == 0, shown.stderr
    assert "preset tiny-text" in shown.stdout and "steps 2,000" in shown.stdout
    preset_config("tiny-text").save_pretrained(place / "base")
    keys = {"model": "base", "data": "pairs.jsonl", "output_dir": "runs/d", "num_train_epochs": 2, "max_length": 128}
    shown = call(["dpo", *words(keys), "--dry-run"])
    assert shown.returncode == 0, shown.stderr
    assert "samples 16, epochs 2" in shown.stdout and "reference" in shown.stdout
    assert not (place / "runs").exists()


def test_a_chain_that_shows_images_to_a_language_model_is_refused(place):
    shared = {"per_device_train_batch_size": 2, "max_steps": 2, "use_cpu": True}
    first = {**shared, "documents": "my.txt", "preset": "tiny-text", "context_length": 64, "output_dir": "runs/text"}
    (place / "text.yaml").write_text(yaml.safe_dump(first))
    (place / "image.yaml").write_text(yaml.safe_dump({**shared, "data": "digits", "output_dir": "runs/image"}))
    result = call(["train", "--stages", "text.yaml", "image.yaml", "--dry-run"])
    assert result.returncode == 1
    assert "stage 2 of 2 (image.yaml): the data has images, but the model is a language model" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--num-processes", "0"), "--num-processes is 0: it must be above 0"),
        (("--tflops", "-1"), "--tflops is -1.0: it must be above 0"),
    ],
)
def test_options_of_a_dry_run_are_checked(more, message, place):
    result = call(["train", *words({**RECIPE, "output_dir": "runs/x"}), "--dry-run", *more])
    assert result.returncode == 1 and message in result.stderr


def test_the_number_of_processes_is_that_of_the_launcher(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(module, "planned_target", lambda *arguments: (None, "unknown"))
    monkeypatch.setattr(module, "load_arguments", lambda *arguments: loaded)
    from smol_hf.training.recipe.recipes import load_arguments

    with monkeypatch.context() as alone:
        alone.delenv("WORLD_SIZE")
        loaded = load_arguments(words({**RECIPE, "output_dir": "runs/x", "data_lanes": 8}))
    (facts,) = dry_run(None, [], traces=False)
    assert facts["batch"]["global"] == 16


def test_a_run_refuses_another_global_batch(place):
    keys = {**RECIPE, "output_dir": "runs/x", "gradient_accumulation_steps": 2, "global_batch_size": 16}
    result = call(["train", *words(keys)])
    assert result.returncode == 1 and "× gradient_accumulation_steps 2 × 1 process is 8" in result.stderr


def test_the_recorded_recipe_keeps_the_global_batch(place):
    keys = {**RECIPE, "output_dir": "runs/x", "max_steps": 1, "global_batch_size": 8, "save_strategy": "no"}
    assert call(["train", *words(keys)]).returncode == 0
    recorded = yaml.safe_load((place / "runs/x/recipe.yaml").read_text())
    assert recorded["global_batch_size"] == 8 and "gradient_accumulation_steps" not in recorded
    assert json.loads((place / "runs/x/run.json").read_text())["repeats"]["rows of a step"] == 8


@pytest.mark.parametrize(
    "text, keys, why",
    [
        ("\n\n", {}, "has no sample to train on$"),
        (f"{json.dumps(CHAT)}\n" * 40, {"eval_fraction": 0.999}, "eval_fraction 0.999 holds all out"),
    ],
)
def test_data_without_a_sample_is_refused(text, keys, why, place):
    (place / "my.jsonl").write_text(text)
    recipe = {**RECIPE, "data": "my.jsonl", "max_steps": 1, "output_dir": "out", **keys}
    with pytest.raises(RecipeError, match=why):
        dry_run(None, words(recipe), ARGUMENT_CLASSES, traces=False)
