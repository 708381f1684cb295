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


def peaks(said):
    """The last numeric column of the table, by change."""
    rows = (re.split(r"\s*│\s*", line.strip("│ ")) for line in said.splitlines() if line.startswith("│"))
    return {row[0]: (int(row[5].replace(",", "")), row[-1]) for row in rows}


def test_a_run_without_memory_says_what_needs_less_and_a_resumed_run_accepts_it(tmp_path, capsys, monkeypatch):
    keys = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 16, "num_pages": 80}
    with monkeypatch.context() as patched:
        allocate_too_much(patched, SmolTrainer, 2)
        assert main(train_words(tmp_path / "run", **keys)) == 1
    said = capsys.readouterr().err
    assert f"error: the machine is out of memory (it tried to allocate {2**50} bytes): lower" in said
    assert f"The newest checkpoint, {tmp_path / 'run' / 'checkpoint-2'}, is safe: continue with" in said
    assert "smol-hf estimate, in MB, for a step of 16 × 256 tokens and 16 tiles, per process:" in said
    assert "Traceback" not in said
    found = peaks(said)
    less = {
        "per_device_train_batch_size 8, gradient_accumulation_steps 2": "yes",
        "gradient_checkpointing true": "yes",
        "context_length 128": "no",
        "8 processes with recipes/accelerate/fsdp2.yaml": "no",
    }
    assert {name: resumes for name, (_, resumes) in found.items()} == {"this recipe": "", **less}
    here = found["this recipe"][0]
    assert all(found[name][0] <= here for name in less) and found["context_length 128"][0] < here
    smaller = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    assert main([*train_words(tmp_path / "run", **keys | {"context_length": 128}), *RESUME]) == 1
    assert main([*train_words(tmp_path / "run", **keys | smaller), *RESUME]) == 0


def test_a_run_on_preferences_counts_the_reference(tmp_path, capsys, monkeypatch):
    allocate_too_much(monkeypatch, PreferenceTrainer, 0)
    assert main(dpo_words(tmp_path / "run", tmp_path)) == 1
    said = capsys.readouterr().err
    assert f"No checkpoint was saved in {tmp_path / 'run'}" in said and "reference" in said
    assert {"max_length 32", "use_peft true"} & {name.partition(" (")[0] for name in peaks(said)}


def test_a_model_whose_sizes_are_unknown_keeps_the_error(tmp_path, capsys, monkeypatch):
    allocate_too_much(monkeypatch, SmolTrainer, 0)
    monkeypatch.setattr("smol_hf.estimate.memory_report.planned_target", lambda *_: (None, "its sizes are unknown"))
    assert main(train_words(tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "error: the machine is out of memory" in said and "The memory of a step is unknown: its sizes" in said
