"""FSDP2 on two processes trains like one process, through the unfreezing, a kill and another number of processes."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from processes import call, fork_command, free_port
from sharded_processes import fork_sharded
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from smol_hf.auto import AutoModelForImageTextToText
from smol_hf.support.resources import resource_path
from smol_hf.training.checkpoint import saving
from smol_hf.training.checkpoint.checkpoints import CheckpointError, choose_checkpoint, verify, write_manifest
from smol_hf.training.log import processes
from smol_hf.training.log.console import read_log
from smol_hf.training.log.processes import refuse_lone_processes
from smol_hf.training.recipe.values import RecipeError

STEPS, UNFREEZE, BATCH = 6, 3, 4
# `make test-all` asks for each combination. One of them takes half a minute of a core.
EVERY = "SMOL_HF_KILLS" in os.environ


def train_words(output, processes=1, **keys):
    keys = {
        "config": resource_path("recipes", "quickstart", "digits.yaml"), "num_pages": 200, "output_dir": output,
        "per_device_train_batch_size": BATCH // processes, "max_steps": STEPS, "unfreeze_vision_at_step": UNFREEZE,
        "vision_warmup_steps": 0, "warmup_steps": 0, "logging_steps": 1, "save_steps": 2, **keys,
    }  # fmt: skip
    given = {name: value for name, value in keys.items() if value is not None}
    return ["train", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def finish(ranks):
    done = [rank.wait() for rank in ranks]
    assert [code for code, _ in done] == [0] * len(ranks), "".join(said for _, said in done)
    return "".join(said for _, said in done)


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


def logits(folder):
    """Of an image of noise and some tokens."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    side, number = model.config.image_side, model.config.image_seq_len
    image = torch.full((1, number), model.config.image_token_id)
    ids = torch.cat([image, torch.randint(10, 300, (1, 12), generator=generator)], dim=1)
    with torch.inference_mode():
        return model(input_ids=ids, pixel_values=torch.randn((1, 1, 3, side, side), generator=generator)).logits


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The unbroken run of one process."""
    output = tmp_path_factory.mktemp("one") / "run"
    result = call([*train_words(output), "--use_cpu", "true"])
    assert result.returncode == 0, result.stderr
    return output


KINDS = {
    "sharded": ({}, {}),
    "full": ({"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, {}),
    "checkpointing": ({}, {"gradient_checkpointing": "true"}),
    "wrapped": ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}),
}
CONSTANT = {"lr_scheduler_type": "constant"}


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
def test_two_processes_train_like_one_through_a_kill(kind, one_process, tmp_path, monkeypatch):
    environment, keys = KINDS[kind]
    output = tmp_path / "run"
    stop_and_resume(output, keys, monkeypatch, **environment)
    assert losses(output) == pytest.approx(losses(one_process), abs=1e-6)
    assert_same_states(output, one_process, tmp_path)
    assert torch.allclose(logits(output / "checkpoint"), logits(one_process / "checkpoint"), atol=1e-5, rtol=0)
    checked = call(["check", output / "checkpoint"])
    assert checked.returncode == 0, checked.stdout


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


def test_the_shards_of_a_checkpoint_become_a_model(one_process, tmp_path):
    output = tmp_path / "run"
    finish(fork_sharded(2, train_words(output, 2), tmp_path))
    merged = call(["merge", output / f"checkpoint-{STEPS}", tmp_path / "merged"])
    assert merged.returncode == 0, merged.stderr
    assert torch.equal(logits(tmp_path / "merged"), logits(output / "checkpoint"))
    assert call(["check", tmp_path / "merged"]).returncode == 0
    lacking_shards_are_refused(output, tmp_path)
    shard = next((output / f"checkpoint-{STEPS}" / "pytorch_model_fsdp_0").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    refused = call(["merge", output / f"checkpoint-{STEPS}", tmp_path / "damaged"])
    assert refused.returncode == 1 and "a shard of the weights is missing or damaged" in refused.stderr
    assert not (tmp_path / "damaged").exists()


def test_adapters_of_two_processes_are_those_of_one(one_process, tmp_path, monkeypatch):
    keys = {
        "config": None, "model": one_process / "checkpoint", "data": "digits", "use_peft": "true", "lora_r": 4,
        "lora_dropout": 0, "unfreeze_vision_at_step": None, "vision_warmup_steps": None,
    }  # fmt: skip
    one = call([*train_words(tmp_path / "one", **keys), "--use_cpu", "true"])
    assert one.returncode == 0, one.stderr
    stop_and_resume(tmp_path / "run", keys, monkeypatch)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    same = logits(tmp_path / "one" / "checkpoint")
    assert torch.allclose(logits(tmp_path / "run" / "checkpoint"), same, atol=1e-5, rtol=0)
    merged = call(["merge", tmp_path / "run" / f"checkpoint-{STEPS}", tmp_path / "merged"])
    assert merged.returncode == 0, merged.stderr
    assert torch.allclose(logits(tmp_path / "merged"), same, atol=1e-5, rtol=0)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 4)] if EVERY else [(2, 1)])
def test_a_run_is_resumed_on_another_number_of_processes(before, after, one_process, tmp_path):
    """Also with a part that was trained, is frozen when the run resumes, and is trained again."""
    output, alone = tmp_path / "run", tmp_path / "one"
    first = {"max_steps": 2, "unfreeze_vision_at_step": 0, **CONSTANT}
    second = {"unfreeze_vision_at_step": 4, **CONSTANT}
    resume = ("--resume_from_checkpoint", "true")
    finish(fork_sharded(before, train_words(output, before, **first), tmp_path))
    finish(fork_sharded(after, [*train_words(output, after, **second), *resume], tmp_path))
    assert call([*train_words(alone, **first), "--use_cpu", "true"]).returncode == 0
    assert call([*train_words(alone, **second), "--use_cpu", "true", *resume]).returncode == 0
    assert losses(output) == pytest.approx(losses(alone), abs=1e-6)
    assert_same_states(output, alone, tmp_path)
    same = logits(alone / "checkpoint")
    assert torch.allclose(logits(output / "checkpoint"), same, atol=1e-5, rtol=0)
    refused = call([*train_words(output, **second), "--use_cpu", "true", *resume])
    assert refused.returncode == 1
    assert "was saved by FSDP with SHARDED_STATE_DICT, but what runs is one process" in refused.stderr


def test_fsdp_of_the_recipe_reads_its_file(one_process, tmp_path):
    (tmp_path / "fsdp.yaml").write_text("version: 2\nstate_dict_type: FULL_STATE_DICT\nreshard_after_forward: true\n")
    output = tmp_path / "run"
    words = train_words(output, 2, fsdp="true", fsdp_config=tmp_path / "fsdp.yaml")
    printed = finish(fork_sharded(2, words, tmp_path, ACCELERATE_USE_FSDP="false"))
    assert "2 processes (FSDP2) on cpu, precision float32, 4 rows per step" in printed
    assert losses(output) == pytest.approx(losses(one_process), abs=1e-6)


@pytest.mark.parametrize("environment, keys", [({"ACCELERATE_USE_FSDP": "true"}, {}), ({}, {"fsdp": "true"})])
def test_another_strategy_than_the_one_asked_for_is_refused(environment, keys, tmp_path):
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    words = [*train_words(tmp_path / "run", **keys), "--use_cpu", "true"]
    environment = {**alone, "MASTER_PORT": str(free_port()), **environment}
    code, printed = fork_command(words, tmp_path / "printed.txt", **environment).wait(60)
    assert code == 1 and "FSDP was asked for, but what runs is" in printed and "Traceback" not in printed


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch):
    PartialState()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="the launcher started 2 processes, but 1 process would train together"):
        refuse_lone_processes()


def test_processes_without_the_variable_of_torchrun_are_not_refused(monkeypatch):
    monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    refuse_lone_processes()


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RecipeError, match="the environment variable WORLD_SIZE is 'two'"):
        refuse_lone_processes()


def test_deepspeed_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finished = call([*train_words(tmp_path / "run"), "--use_cpu", "true", "--deepspeed", '{"train_batch_size": 4}'])
    assert finished.returncode == 1 and "needs the package deepspeed: pip install deepspeed" in finished.stderr
