"""The three steps of the demo: train on the embedded digits, answer held-out questions, write a report.

Training is `smol-hf train` with a recipe. An isolated process that cannot import smol_hf answers the questions.
"""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Column, Table

from smol_hf.auto import AutoConfig
from smol_hf.data.digits import evaluation_questions
from smol_hf.demo.asking import answer
from smol_hf.demo.held_out import write_held_out
from smol_hf.demo.report import OF_PAGES, SINGLE, Words, score, write_report
from smol_hf.publishing.model_card import write_model_card
from smol_hf.publishing.run_facts import training_facts
from smol_hf.support.formatting import duration, percent
from smol_hf.support.resources import resource_path
from smol_hf.train import main as train
from smol_hf.training.log.console import read_log
from smol_hf.training.recipe.recipes import read_recipe

EVALUATION_SEED = 1
MARK = ".demo"
DATA_DESCRIPTION = (
    "Pages drawn with handwritten digits of the UCI *Optical Recognition of Handwritten Digits* set (CC BY 4.0), "
    "each with a question about it. The digits of the held-out pages were never seen in training; their writers were."
)


def run(arguments: Namespace) -> int:
    """Run the demo and return the exit code. Writes `checkpoint/`, `held_out/`, `metrics.json` and `report.html`.

    Raises:
        FileExistsError: if the output folder contains something other than an earlier demo.
        RuntimeError: if the isolated process fails; it has printed its own message.
        Interrupted: after SIGTERM, once the isolated process has ended.
    """
    console = Console(highlight=False)
    output = Path(arguments.output)
    check_steps(arguments)
    recipe_path = Path(arguments.recipe) if arguments.recipe else resource_path("recipes", "quickstart", "digits.yaml")
    read_recipe(recipe_path)
    clear_output(output)
    console.rule("1/3  train")
    if code := train(training_words(recipe_path, output, arguments), usage=getattr(arguments, "usage", "")):
        return code
    recipe = yaml.safe_load((output / "recipe.yaml").read_text(encoding="utf-8"))

    console.rule("2/3  answer questions with and without images, in a process without smol_hf")
    pages = evaluation_questions(arguments.questions, seed=EVALUATION_SEED, page_size=recipe["page_size"])
    write_held_out(output, pages)
    answered = answer(output / "checkpoint", pages)

    console.rule("3/3  report")
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    metrics = {
        **score(answered),
        "train_seconds": run["train_seconds"],
        "parameters": sum(run["parameters"].values()),
        "seed": run["seed"],
        "steps": run["steps"],
        "data_fingerprint": run["data_fingerprint"],
        "versions": run["versions"],
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    log = read_log(output)
    write_report(
        output / "report.html",
        title="A tiny model reads handwritten digits",
        metrics=metrics,
        log=log,
        answered=answered,
        unfrozen_at=recipe["unfreeze_vision_at_step"],
    )
    config = AutoConfig.from_pretrained(output / "checkpoint")
    write_model_card(
        output / "checkpoint",
        model_name="digits-demo",
        config=config,
        parameters={**run["parameters"], "total": metrics["parameters"]},
        metrics=metrics,
        recipe=recipe,
        versions=run["versions"],
        data_description=DATA_DESCRIPTION,
        training=training_facts(run, log),
        license="apache-2.0",
        language="en",
        example_question=pages[0].question,
    )
    print_scores(console, metrics)
    console.print(f"open {output / 'report.html'}", soft_wrap=True)
    return 0


def check_steps(arguments: Namespace) -> None:
    """Raise ValueError for `--max-steps` below 1."""
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise ValueError(f"--max-steps is {arguments.max_steps}: it must be at least 1")


def clear_output(output: Path) -> None:
    """Remove an earlier demo, which has the file MARK. Raise FileExistsError for other files."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: choose another --output")
    if output.exists() and any(output.iterdir()):
        if not (output / MARK).is_file():
            raise FileExistsError(f"{output} contains something other than an earlier demo: choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).write_text("This folder was written by smol-hf demo, which may replace it.\n", encoding="utf-8")


def training_words(recipe_path: Path, output: Path, arguments: Namespace) -> list[str]:
    """Build the command line of `smol-hf train`."""
    words = ["--config", str(recipe_path), "--output_dir", str(output), "--seed", str(arguments.seed)]
    if arguments.max_steps is not None:
        words += ["--max_steps", str(arguments.max_steps)]
    return words + arguments.recipe_words


def print_scores(console: Console, metrics: dict, words: Words = OF_PAGES) -> None:
    shares = {"exact_match": "score", "blind_exact_match": words.blind.lower(), SINGLE: words.single.lower()}
    shares = {key: name for key, name in shares.items() if key in metrics}
    numbers = [Column(name, justify="right") for name in ("questions", *shares.values())]
    title = f"{metrics['questions']} held-out questions, exact match"
    table = Table("kind", *numbers, title=title, title_justify="left")
    for kind, scores in [*metrics["per_kind"].items(), ("all", metrics)]:
        if kind == "all":
            table.add_section()
        table.add_row(kind, str(scores["questions"]), *(percent(scores[key]) for key in shares))
    console.print(table)
    console.print(f"trained {metrics['parameters']:,} parameters in {duration(metrics['train_seconds'])}")
