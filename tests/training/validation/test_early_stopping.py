"""The best checkpoint and early stopping: exact after a kill or a signal, and nothing of the best is lost."""

import json
import re
import shutil
import signal

import pytest
import torch
from processes import call, fork_command
from safetensors.torch import load_file
from tiny_runs import dpo_words, signal_after, train_here, train_words

from smol_hf.training.log.console import read_log
from smol_hf.training.trainer import SmolTrainer

# The loss falls, so the first validation stays the best one.
FIRST_IS_BEST = {
    "eval_fraction": 0.3, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 30,
    "load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True,
    "early_stopping_patience": 7, "save_total_limit": 2,
}  # fmt: skip
LAST = 2 + 2 * 7
RESUME = ["--resume_from_checkpoint", "true"]


def log_of(output):
    """The entries of a log without times and rates."""
    kept = ("step", "loss", "grad_norm", "eval_loss", "eval_tokens", "total_tokens")
    return [
        {name: entry[name] for name in kept if name in entry}
        for entry in read_log(output)
        if {"loss", "eval_loss"} & entry.keys()
    ]


def state_of(output, step):
    state = json.loads((output / f"checkpoint-{step}" / "trainer_state.json").read_text())
    counter = state["stateful_callbacks"]["EarlyStopping"]["attributes"]["early_stopping_patience_counter"]
    return state["best_metric"], state["best_global_step"], counter


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    output = tmp_path_factory.mktemp("stopped") / "run"
    result = call(train_words(output, **FIRST_IS_BEST))
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def test_a_run_stops_after_the_patience_and_its_result_is_the_best(stopped):
    output, printed = stopped
    log = log_of(output)
    assert [entry["step"] for entry in log if "eval_loss" in entry] == list(range(2, LAST + 1, 2))
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [f"checkpoint-{LAST}", "checkpoint-2"]
    assert state_of(output, LAST) == (log[2]["eval_loss"], 2, 7)
    best, result = (load_file(output / name / "model.safetensors") for name in ("checkpoint-2", "checkpoint"))
    assert all(torch.equal(best[name], result[name]) for name in result)
    facts = json.loads((output / "run.json").read_text())
    assert facts["best"] == {"step": 2, "metric": "loss", "value": log[2]["eval_loss"]}
    assert facts["validation"]["loss"] == log[2]["eval_loss"] and facts["steps"] == LAST
    assert f"the result is the best step, 2, with loss {log[2]['eval_loss']:.4f}" in printed
    assert re.search(rf"stopped early, at step {LAST} of \d+: no better loss in \d+ validation", printed)


@pytest.mark.parametrize("lines", [5, 12, 20])
def test_a_killed_run_continues_its_count_exactly(lines, stopped, tmp_path):
    output = tmp_path / "run"
    process = fork_command(train_words(output, **FIRST_IS_BEST), tmp_path / "printed.txt")
    signal_after(output, lines, signal.SIGKILL, process=process.pid)
    code, printed = process.wait()
    assert code == -signal.SIGKILL, printed
    resumed = call([*train_words(output, **FIRST_IS_BEST), *RESUME])
    assert resumed.returncode == 0, resumed.stderr
    assert log_of(output) == log_of(stopped[0]), "no validation is repeated and none is lost"
    assert state_of(output, LAST) == state_of(stopped[0], LAST)


def stop_in_step(monkeypatch, step):
    """Send SIGTERM to this process in a step of a run."""
    close = SmolTrainer._get_grad_norm

    def close_step(trainer, *arguments, **options):
        if trainer.state.global_step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return close(trainer, *arguments, **options)

    monkeypatch.setattr(SmolTrainer, "_get_grad_norm", close_step)


EPOCHS = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 6, "num_pages": 12}


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_signal_in_the_step_of_a_validation_delays_it_to_the_resumed_run(strategy, tmp_path):
    """A signal needs an answer in seconds, so nothing is validated then."""
    keys = {**FIRST_IS_BEST, "early_stopping_patience": 3}
    if strategy == "epoch":
        keys = {name: value for name, value in keys.items() if name not in ("eval_steps", "save_steps")}
        keys |= {**EPOCHS, "warmup_steps": 0}
    whole, output = tmp_path / "whole", tmp_path / "run"
    assert call(train_words(whole, **keys)).returncode == 0
    due = [entry["step"] for entry in log_of(whole) if "eval_loss" in entry]
    assert len(due) == 4
    stops = sorted({due[0], due[0] + 1, due[1], due[-1]})  # also between two validations, and in the last step
    for stop in stops:
        words = train_words(output, **keys) + (RESUME if output.exists() else [])
        with pytest.MonkeyPatch.context() as monkeypatch:
            stop_in_step(monkeypatch, stop)
            assert call(words).returncode == 143
        assert all(entry["step"] < stop for entry in log_of(output) if "eval_loss" in entry)
    resumed = call([*train_words(output, **keys), *RESUME])
    assert resumed.returncode == 0, resumed.stderr
    assert log_of(output) == log_of(whole)
    results = [load_file(folder / "checkpoint" / "model.safetensors") for folder in (output, whole)]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[1])


def test_a_run_that_stopped_early_and_was_killed_before_its_result_trains_no_further_step(stopped, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(stopped[0], output)
    shutil.rmtree(output / "checkpoint")
    resumed = call([*train_words(output, **FIRST_IS_BEST), *RESUME])
    assert resumed.returncode == 0, resumed.stderr
    assert f"the run is finished at step {LAST}: to train further, raise early_stopping_patience" in resumed.stdout
    assert log_of(output) == log_of(stopped[0])
    one, two = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (output, stopped[0]))
    assert all(torch.equal(one[name], two[name]) for name in two)
    further = call([*train_words(output, **{**FIRST_IS_BEST, "early_stopping_patience": 8}), *RESUME])
    assert further.returncode == 0 and f"step {LAST + 2}/30" in further.stdout


def test_a_missing_best_checkpoint_is_an_error(stopped, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(stopped[0], output)
    shutil.rmtree(output / "checkpoint-2")
    resumed = call([*train_words(output, **{**FIRST_IS_BEST, "early_stopping_patience": 9}), *RESUME])
    assert resumed.returncode == 1 and "Traceback" not in resumed.stderr
    assert "checkpoint-2, the best checkpoint of the run so far, is missing: restore it" in resumed.stderr


@pytest.mark.parametrize("spacing", [{"save_steps": 6}, {"num_checkpoints": 1}])
def test_the_best_model_between_two_checkpoints_is_saved_and_kept(spacing, tmp_path):
    keys = {**FIRST_IS_BEST, "early_stopping_patience": None, "max_steps": 6, "save_total_limit": 1}
    keys = {name: value for name, value in keys.items() if value is not None and name != "save_steps"} | spacing
    words = train_words(tmp_path / "run", **keys)
    if "num_checkpoints" in spacing:
        at = words.index("--save_steps")
        words = [*words[:at], *words[at + 2 :]]
    result = call(words)
    assert result.returncode == 0, result.stderr
    assert "the result is the best step, 2," in result.stdout
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_direction_follows_from_the_metric(tmp_path):
    keys = {"eval_fraction": 0.3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "max_steps": 4}
    for metric in ("perplexity", "loss"):
        trainer = train_here(tmp_path / metric, **keys, metric_for_best_model=metric)
        found = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
        assert trainer.state.best_global_step == min(found, key=found.get) != 1
    scored = {"eval_generate_samples": 2, "eval_metric": ["contains"], "metric_for_best_model": "contains"}
    assert train_here(tmp_path / "contains", **keys, **scored).args.greater_is_better is True


def test_the_last_step_of_a_run_that_stops_early_is_logged(tmp_path):
    output = tmp_path / "run"
    assert (
        call(train_words(output, **{**FIRST_IS_BEST, "early_stopping_patience": 1, "logging_steps": 3})).returncode
        == 0
    )
    steps = [entry["step"] for entry in log_of(output) if "loss" in entry]
    assert json.loads((output / "run.json").read_text())["steps"] == steps[-1] == 4


def test_preferences_stop_early_too(tmp_path):
    keys = {name: value for name, value in FIRST_IS_BEST.items() if name not in ("eval_fraction", "max_steps")}
    data = str(tmp_path / "pairs.jsonl")
    words = dpo_words(tmp_path / "run", tmp_path, **keys, max_steps=20, validation_data=data)
    result = call(words)
    assert result.returncode == 0, result.stderr
    assert [entry["step"] for entry in log_of(tmp_path / "run") if "eval_loss" in entry] == list(range(2, 17, 2))
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    resumed = call([*words, *RESUME])
    assert resumed.returncode == 0 and "the run is finished at step 16" in resumed.stdout, resumed.stderr
