"""Checkpoints of sharded runs: killed while they are written, incomplete, and the state of frozen parts."""

import json
import shutil
import time

import pytest
import torch
from processes import call
from sharded_processes import fork_sharded
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from training.test_sharded import EVERY, ON_CPU, RESUME, STEPS, UNFREEZE, assert_same, finish, train_words

from smol_hf.training.checkpoint import saving
from smol_hf.training.checkpoint.checkpoints import CheckpointError, choose_checkpoint, verify, write_manifest

CONSTANT = {"lr_scheduler_type": "constant"}
KINDS = {
    "sharded": ({}, {}),
    "full": ({"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": "true"}),
    "wrapped": ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}),
}


def write_manifest_in_vain(folder, step, processes):
    """Wait to be killed where the last checkpoint is written, but has neither a manifest nor its name."""
    if step == STEPS:
        print("the last checkpoint is written", flush=True)
        time.sleep(600)
    write_manifest(folder, step, processes)


def stop_and_resume(output, keys, monkeypatch, **environment):
    """Kill one process, then the other, while they save the last checkpoint, and continue from the one before."""
    words = train_words(output, 2, save_steps=UNFREEZE, save_total_limit=1, **keys)
    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_manifest", write_manifest_in_vain)
        ranks = fork_sharded(2, words, output.parent, **environment)
        ranks[0].wait_for("the last checkpoint is written")
        for rank in reversed(ranks):
            rank.process.kill()
            rank.process.join()
    assert [path.name for path in output.glob("checkpoint*")] == [f"checkpoint-{UNFREEZE}"]
    assert list((output / ".incomplete" / f"checkpoint-{STEPS}").rglob("*.pt"))
    verify(output / f"checkpoint-{UNFREEZE}")
    printed = finish(fork_sharded(2, [*words, "--resume_from_checkpoint", "true"], output.parent, **environment))
    assert f"resuming from checkpoint-{UNFREEZE}" in printed
    assert sorted(path.name for path in output.glob("checkpoint*")) == ["checkpoint", f"checkpoint-{STEPS}"]
    assert not (output / ".incomplete").exists()


def states(run, folder):
    """The state of the optimizer after the last step: parameters by group, and the state of each."""
    checkpoint = run / f"checkpoint-{STEPS}"
    saved = next(
        each for each in map(checkpoint.joinpath, ("optimizer.pt", "optimizer.bin", "optimizer_0")) if each.exists()
    )
    if saved.is_dir():
        dcp_to_torch_save(saved, folder / "optimizer.pt")
        saved = folder / "optimizer.pt"
    loaded = torch.load(saved, weights_only=True)
    loaded = loaded.get("optimizer", loaded)
    return {group["name"]: [loaded["state"][each] for each in group["params"]] for group in loaded["param_groups"]}


def assert_same_states(run, other, folder):
    here, there = states(run, folder), states(other, folder)
    assert here.keys() == there.keys()
    for group in here:
        assert len(here[group]) == len(there[group])
        for one, two in zip(here[group], there[group]):
            assert int(one["step"]) == int(two["step"])
            for moment in ("exp_avg", "exp_avg_sq"):
                assert torch.allclose(one[moment], two[moment], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS if EVERY else ["sharded"])
def test_a_run_that_is_killed_while_it_saves_continues_with_the_same_states(kind, tmp_path, monkeypatch):
    environment, keys = KINDS[kind]
    output, alone = tmp_path / "run", tmp_path / "one"
    stop_and_resume(output, keys, monkeypatch, **environment)
    assert call([*train_words(alone, save_steps=UNFREEZE), *ON_CPU]).returncode == 0
    assert_same(output, alone)
    assert_same_states(output, alone, tmp_path)


def lacking_shards_are_refused(output, folder):
    """A file that the checkpoint once had, and one that a process never wrote, so that no manifest names it."""
    newest, before = f"checkpoint-{STEPS}", f"checkpoint-{STEPS - 2}"
    for shards in ("pytorch_model_fsdp_0", "optimizer_0"):
        for name in (".metadata", "__1_0.distcp"):
            run = folder / shards / name.strip(".")
            for each in (newest, before):
                shutil.copytree(output / each, run / each)
            (run / newest / shards / name).unlink()
            chosen, said = choose_checkpoint(run, True)
            assert chosen.name == before and f"{newest}: {shards}/{name} is missing" in said[0]
            with pytest.raises(CheckpointError, match=f"{newest}: {shards}/{name} is missing: a process wrote it"):
                write_manifest(run / newest, STEPS, 2)
            manifest = json.loads((run / newest / "manifest.json").read_text())
            del manifest["files"][f"{shards}/{name}"]
            (run / newest / "manifest.json").write_text(json.dumps(manifest))
            chosen, said = choose_checkpoint(run, True)
            assert chosen.name == before and f"{newest}: {shards}/{name} is missing: a process wrote it" in said[0]


def test_a_checkpoint_that_lacks_a_shard_is_not_resumed_from(tmp_path):
    output = tmp_path / "run"
    finish(fork_sharded(2, train_words(output, 2), tmp_path))
    lacking_shards_are_refused(output, tmp_path)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 4)] if EVERY else [(2, 1)])
def test_a_part_that_is_frozen_when_the_run_resumes_keeps_its_state(before, after, tmp_path):
    """It is trained, frozen in the resumed run, and trained again, in other numbers of processes."""
    output, alone = tmp_path / "run", tmp_path / "one"
    first = {"max_steps": 2, "unfreeze_vision_at_step": 0, **CONSTANT}
    second = {"unfreeze_vision_at_step": 4, **CONSTANT}
    finish(fork_sharded(before, train_words(output, before, **first), tmp_path))
    finish(fork_sharded(after, [*train_words(output, after, **second), *RESUME], tmp_path))
    assert call([*train_words(alone, **first), *ON_CPU]).returncode == 0
    assert call([*train_words(alone, **second), *ON_CPU, *RESUME]).returncode == 0
    assert_same(output, alone)
    assert_same_states(output, alone, tmp_path)
    refused = call([*train_words(output, **second), *ON_CPU, *RESUME])
    assert refused.returncode == 1
    assert "was saved by FSDP with SHARDED_STATE_DICT, but what runs is one process" in refused.stderr
