"""Runs over documents that are resumed."""

import json
from pathlib import Path

import torch
import yaml
from story_runs import PRETRAIN, run_story

from smol_hf.commands.main import main
from smol_hf.training.log.console import read_log


def test_a_run_that_is_resumed_goes_on_exactly(here):
    whole = run_story("--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2")
    for name in ("checkpoint-6", "checkpoint-4"):
        folder = Path("runs/a") / name
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = run_story(
        "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--resume_from_checkpoint", "true"
    )
    for one, other in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)
    for value in ("loss", "epoch"):
        logged = [entry[value] for entry in read_log("runs/a") if "loss" in entry]
        assert logged == [entry[value] for entry in whole.state.log_history if "loss" in entry]
    assert not any("train_loss" in entry for entry in read_log("runs/a")), "it would be of the last part alone"


def test_a_run_outlives_the_checkpoint_that_it_was_resumed_from(here, capsys):
    """Which is rotated away; and what began the run need not be said again."""
    words = [*PRETRAIN]
    words += ["--documents_cache", "caches", "--use_cpu", "--save-interval", "1", "--keep", "1", "--log-interval", "1"]
    assert main([*words, "--steps", "2", "--lr_scheduler_type", "constant"]) == 0
    assert main(["pretrain", "--resume", "--output", "runs/a", "--steps", "4", "--use_cpu"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["steps"] == 4 and [folder.name for folder in Path("runs/a").glob("checkpoint-*")] == ["checkpoint-4"]
    assert json.loads(Path("runs/a/run.json").read_text())["resumed_at_step"] == 2
    recipe = yaml.safe_load(Path("runs/a/recipe.yaml").read_text())
    assert recipe["lr_scheduler_type"] == "constant" and not {"data", "page_size", "connector_type"} & set(recipe)


def test_more_steps_can_be_added_to_a_finished_run(here, capsys):
    words = [*PRETRAIN]
    words += ["--lr_scheduler_type", "constant", "--warmup_steps", "0", "--documents_cache", "caches", "--use_cpu"]
    words += ["--save-interval", "2", "--log-interval", "1"]
    assert main([*words, "--steps", "4"]) == 0
    assert main([*words, "--steps", "6", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["steps"] == 6
    assert main([*words, "--steps", "6", "--output", "runs/b"]) == 0
    assert [entry["loss"] for entry in read_log("runs/a") if "loss" in entry] == [
        entry["loss"] for entry in read_log("runs/b") if "loss" in entry
    ]
