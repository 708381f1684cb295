"""A run out of memory: its error, the safe checkpoint, the estimate of its step, and changes that need less."""

import re

import torch
from tiny_runs import dpo_words, train_words

from smol_hf.commands.main import main
from smol_hf.training.preference import PreferenceTrainer
from smol_hf.training.trainer import SmolTrainer

RESUME = ("--resume_from_checkpoint", "true")


def allocate_too_much(monkeypatch, trainer_class, step):
    """Let the trainer ask for a pebibyte in the step after `step`."""
    training_step = trainer_class.training_step

    def allocating(trainer, *arguments):
        if trainer.state.global_step == step:
            torch.empty(2**50, dtype=torch.uint8)
        return training_step(trainer, *arguments)

    monkeypatch.setattr(trainer_class, "training_step", allocating)


UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}


def peaks(said):
    """(bytes, accepted on resume) of the rows of the table, by change."""
    rows = (re.split(r"\s*│\s*", line.strip("│ ")) for line in said.splitlines() if line.startswith("│"))
    return {row[0]: (float(row[1].split()[0]) * UNITS[row[1].split()[1]], *row[2:]) for row in rows}


def test_a_run_without_memory_says_what_needs_less_and_a_resumed_run_accepts_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    keys = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 16, "num_pages": 80}
    with monkeypatch.context() as patched:
        allocate_too_much(patched, SmolTrainer, 2)
        assert main(train_words(tmp_path / "run", **keys)) == 1
    said = capsys.readouterr().err
    assert f"error: the machine is out of memory (it tried to allocate {2**50} bytes): lower" in said
    assert f"The newest checkpoint, {tmp_path / 'run' / 'checkpoint-2'}, is safe: continue with" in said
    assert "smol-hf estimate, for a step of 16 × 256 tokens and 16 tiles, per process:" in said
    assert "Traceback" not in said
    found = peaks(said)
    less = {
        "per_device_train_batch_size 8, gradient_accumulation_steps 2": "yes",
        "gradient_checkpointing true": "yes",
        "context_length 128": "no",
        "FSDP2 on 8 processes (recipes/accelerate/fsdp2.yaml)": "no",
    }
    (here,) = found.pop("none")
    assert {name: resumes for name, (_, resumes) in found.items()} == less
    assert all(peak < here for peak, _ in found.values())
    smaller = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    assert main([*train_words(tmp_path / "run", **keys | {"context_length": 128}), *RESUME]) == 1
    assert main([*train_words(tmp_path / "run", **keys | smaller), *RESUME]) == 0


def test_a_run_on_preferences_counts_the_reference(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    allocate_too_much(monkeypatch, PreferenceTrainer, 0)
    assert main(dpo_words(tmp_path / "run", tmp_path)) == 1
    said = capsys.readouterr().err
    assert f"No checkpoint was saved in {tmp_path / 'run'}" in said and ", reference 2" in said
    assert "for a step of 4 × 128 tokens and 0 tiles" in said, "a pair is two rows"
    assert peaks(said)["max_length 64"][1] == "no"


def test_a_model_whose_sizes_are_unknown_keeps_the_error(tmp_path, capsys, monkeypatch):
    allocate_too_much(monkeypatch, SmolTrainer, 0)
    monkeypatch.setattr("smol_hf.estimate.memory_report.planned_target", lambda *_: (None, "its sizes are unknown"))
    assert main(train_words(tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "error: the machine is out of memory" in said and "The memory of a step is unknown: its sizes" in said
