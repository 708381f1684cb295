"""FSDP2 in groups (HSDP) and with offloading, compiled, and in `pretrain` and `dpo`: the losses of one process."""

import os

import pytest
import torch
from processes import call
from safetensors.torch import load_file
from sharded_processes import fork_sharded
from tiny_runs import dpo_words, pretrain_words
from training.test_sharded import finish, losses, train_words

from smol_hf.training.log.console import read_log

KEYS = {"max_steps": 4, "unfreeze_vision_at_step": 2}
HSDP = ("--num_machines", "1", "--num_processes", "4", "--parallelism_config_dp_shard_size", "2")
COMPILED = {"torch_compile": "true", "torch_compile_backend": "aot_eager"}
every = pytest.mark.skipif("SMOL_HF_KILLS" not in os.environ, reason="set SMOL_HF_KILLS=20")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    output = tmp_path_factory.mktemp("one") / "run"
    result = call([*train_words(output, **KEYS), "--use_cpu", "true"])
    assert result.returncode == 0, result.stderr
    return output


@pytest.mark.parametrize(
    ("count", "file", "options", "keys"),
    [
        pytest.param(4, "fsdp2_hsdp", HSDP, {}, id="hsdp", marks=every),
        pytest.param(2, "fsdp2_offload", (), {}, id="offload", marks=every),
        pytest.param(2, "fsdp2", (), COMPILED, id="compiled", marks=every),
    ],
)
def test_each_file_trains_like_one_process(count, file, options, keys, one_process, tmp_path):
    words = train_words(tmp_path / "run", count, **KEYS, **keys)
    printed = finish(fork_sharded(count, words, tmp_path, file, options))
    assert f"{count} processes (FSDP2) on cpu" in printed
    assert losses(tmp_path / "run") == pytest.approx(losses(one_process), abs=1e-6)
    assert call(["check", tmp_path / "run" / "checkpoint"]).returncode == 0
    assert call(["merge", tmp_path / "run" / "checkpoint-4", tmp_path / "merged"]).returncode == 0
    merged, published = (
        load_file(path / "model.safetensors") for path in (tmp_path / "merged", tmp_path / "run" / "checkpoint")
    )
    assert merged.keys() == published.keys()
    assert all(torch.equal(merged[name], published[name]) for name in merged)


@every
@pytest.mark.parametrize(("command", "build"), [("pretrain", pretrain_words), ("dpo", dpo_words)])
def test_other_commands_train_sharded_like_one_process(command, build, tmp_path):
    keys = {"max_steps": 4, "lr_scheduler_type": "constant"}
    one = build(tmp_path / "one", tmp_path, per_device_train_batch_size=4, **keys)
    assert call(one).returncode == 0
    two = build(tmp_path / "two", tmp_path, per_device_train_batch_size=2, use_cpu=False, **keys)
    assert "2 processes (FSDP2) on cpu" in finish(fork_sharded(2, two, tmp_path))
    for name in ("loss", "grad_norm") if command == "pretrain" else ("loss", "grad_norm", "rewards/margins"):
        logged = [[entry[name] for entry in read_log(tmp_path / run) if name in entry] for run in ("one", "two")]
        assert logged[0] and logged[1] == pytest.approx(logged[0], abs=1e-5 if name == "grad_norm" else 1e-6), name
    assert call(["check", tmp_path / "two" / "checkpoint"]).returncode == 0
