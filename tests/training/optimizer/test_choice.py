"""Optimizers of a run: exact resumption after a kill, and 8-bit states."""

import signal

import pytest
import torch
from processes import call, fork_command
from safetensors.torch import load_file
from tiny_runs import pretrain_words, signal_after
from tiny_trainers import build_trainer

from smol_hf.training.log.console import read_log


def run_of(output):
    """The losses and the weights of a finished run."""
    losses = [entry["loss"] for entry in read_log(output) if "loss" in entry]
    return losses, load_file(output / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("optim", ["muon", "adamw_8bit"])
def test_a_killed_run_resumes_exactly(optim, tmp_path):
    keys = {"optim": optim, "learning_rate": 1e-2, "max_steps": 6, "save_steps": 2}
    whole, killed = (pretrain_words(tmp_path / name, tmp_path, **keys) for name in ("whole", "run"))
    result = call(whole)
    assert result.returncode == 0, result.stderr
    process = fork_command(killed, tmp_path / "printed.txt")
    signal_after(tmp_path / "run", 3, signal.SIGKILL, process=process.pid)
    code, said = process.wait()
    assert code == -signal.SIGKILL, said
    resumed = call([*killed, "--resume_from_checkpoint", "true"])
    assert resumed.returncode == 0 and "resuming from checkpoint-" in resumed.stdout, resumed.stderr
    (losses, weights), (again, same) = run_of(tmp_path / "whole"), run_of(tmp_path / "run")
    assert again == losses and len(losses) == 6, "to the last bit"
    assert all(torch.equal(same[name], weights[name]) for name in weights)
    assert f"optim: {optim}" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_8_bit_states_are_those_of_large_matrices_without_embeddings(tmp_path):
    """As in transformers: an 8-bit state of embeddings trains badly (bitsandbytes' documentation)."""
    trainer = build_trainer(tmp_path, optim="adamw_8bit", number=8, max_steps=1)
    layer = torch.nn.Linear(64, 64)
    trainer.model.connector.add_module("large", layer)
    trainer.model.resize_token_embeddings(200)
    trainer.create_optimizer()
    for weight in trainer.model.parameters():
        weight.grad = torch.ones_like(weight)
    trainer.optimizer.step()
    dtypes = {
        name: trainer.optimizer.state[weight]["state1"].dtype for name, weight in trainer.model.named_parameters()
    }
    assert dtypes["connector.large.weight"] == torch.uint8
    embeddings = trainer.model.get_input_embeddings().weight
    assert embeddings.numel() > 4096, "large enough for 8 bits"
    assert dtypes["language_model.model.embed_tokens.weight"] == torch.float32
