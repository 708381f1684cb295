"""The demo with videos: train on descriptions, pages and clips of moving digits in turn, score, and write a report."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from smol_hf.data.digits import evaluation_clips, evaluation_questions
from smol_hf.demo.held_out import write_held_out
from smol_hf.demo.report import OF_CLIPS, Answered, score, write_report
from smol_hf.demo.run import EVALUATION_SEED, answer, check_steps, clear_output, print_scores
from smol_hf.support.formatting import duration, percent
from smol_hf.support.resources import resource_path
from smol_hf.train import main as train
from smol_hf.training.log.console import read_log

STAGES = ("text", "image", "video")


def run(arguments: Namespace) -> int:
    """Run the demo and return the exit code.

    Writes a folder for each stage, the clips in `held_out`, `metrics.json` and `report.html` to the output.

    Raises:
        FileExistsError: if the output folder contains something other than an earlier demo.
        ValueError: for a recipe, which the three stages do not take.
        RuntimeError: if the isolated process fails; it has printed its own message.
        Interrupted: after SIGTERM, once the isolated process has ended.
    """
    console = Console(highlight=False)
    output = Path(arguments.output)
    check_steps(arguments)
    if arguments.recipe:
        raise ValueError(f"--config {arguments.recipe} excludes --video, which has a recipe for each stage: omit one")
    clear_output(output)
    checkpoint = None
    for number, stage in enumerate(STAGES, start=1):
        console.rule(f"{number}/5  train on {stage}")
        if code := train(training_words(stage, output, checkpoint, arguments), usage=getattr(arguments, "usage", "")):
            return code
        checkpoint = output / stage / "checkpoint"

    console.rule("4/5  answer questions with and without images, in a process without smol_hf")
    recipe = yaml.safe_load((output / "video" / "recipe.yaml").read_text(encoding="utf-8"))
    options = {"seed": EVALUATION_SEED, "page_size": recipe["page_size"]}
    clips, pages = (
        evaluation_clips(arguments.questions, **options),
        evaluation_questions(arguments.questions, **options),
    )
    write_held_out(output, clips)
    before = answer(output / "image" / "checkpoint", pages)
    answered = answer(output / "video" / "checkpoint", [*clips, *pages])
    answered, after = answered[: len(clips)], answered[len(clips) :]
    images = {"image": score(before), "video": score(after)}

    console.rule("5/5  report")
    metrics = metrics_of(output, answered, images)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    write_report(
        output / "report.html",
        title="A tiny model watches moving digits",
        metrics=metrics,
        log=read_log(output / "video"),
        answered=answered,
        unfrozen_at=recipe["unfreeze_vision_at_step"],
        words=OF_CLIPS,
    )
    print_scores(console, metrics, OF_CLIPS)
    console.print(f"pages: {metrics['facts']['Score on pages']}")
    console.print(f"open {output / 'report.html'}", soft_wrap=True)
    return 0


def training_words(stage: str, output: Path, previous: Path | None, arguments: Namespace) -> list[str]:
    """Build the command line of `smol-hf train` for a stage, which continues from the checkpoint `previous`."""
    recipe = resource_path("recipes", "quickstart", f"moving_digits_{stage}.yaml")
    words = ["--config", str(recipe), "--output_dir", str(output / stage), "--seed", str(arguments.seed)]
    if previous is not None:
        words += ["--model", str(previous)]
    if arguments.max_steps is not None:
        words += ["--max_steps", str(arguments.max_steps)]
    return words + arguments.recipe_words


def metrics_of(output: Path, answered: list[Answered], images: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    Args:
        answered: the clips.
        images: score on pages after the image stage and after the video stage.
    """
    runs = {stage: json.loads((output / stage / "run.json").read_text(encoding="utf-8")) for stage in STAGES}
    seconds = {stage: run["train_seconds"] for stage, run in runs.items()}
    last = runs["video"]
    on_pages = ", ".join(f"{percent(each['exact_match'])} after the {stage} stage" for stage, each in images.items())
    return {
        **score(answered),
        "pages": images,
        "train_seconds": sum(seconds.values()),
        "stage_seconds": seconds,
        "parameters": sum(last["parameters"].values()),
        "seed": last["seed"],
        "steps": sum(run["steps"] for run in runs.values()),
        "data_fingerprint": last["data_fingerprint"],
        "versions": last["versions"],
        "facts": {
            "Stages": ", ".join(f"{stage} {duration(each)}" for stage, each in seconds.items()),
            "Score on pages": on_pages,
        },
    }
