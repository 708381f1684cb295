"""Several processes train like one, through the unfreezing, a kill and another number of processes."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from isolated_runs import run_isolated
from processes import call, fork_command, fork_ranks, free_port
from sharded_processes import fork_sharded

from smol_hf.support.resources import resource_path
from smol_hf.training.log import processes, skipped_steps
from smol_hf.training.log.console import read_log
from smol_hf.training.log.processes import refuse_lone_processes
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.trainer import SmolTrainer

STEPS, UNFREEZE, BATCH = 6, 3, 4
# `make test-all` asks for each combination. One of them takes half a minute of a core.
EVERY = "SMOL_HF_KILLS" in os.environ
ON_CPU = ("--use_cpu", "true")
RESUME = ("--resume_from_checkpoint", "true")


def train_words(output, processes=1, **keys):
    keys = {
        "config": resource_path("recipes", "quickstart", "digits.yaml"), "num_pages": 200, "output_dir": output,
        "per_device_train_batch_size": BATCH // processes, "max_steps": STEPS, "unfreeze_vision_at_step": UNFREEZE,
        "vision_warmup_steps": 0, "warmup_steps": 0, "logging_steps": 1, "save_steps": 2, **keys,
    }  # fmt: skip
    given = {name: value for name, value in keys.items() if value is not None}
    return ["train", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def start(kind, count, words, folder):
    """Run the command in processes of a kind of `KINDS`. Returns them, not yet finished."""
    if kind in ("plain", "ddp"):
        words = [*words, *ON_CPU]
        return fork_ranks(count, words, folder) if count > 1 else [fork_command(words, folder / "rank0.txt")]
    environment = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"} if kind == "full" else {}
    return fork_sharded(count, words, folder, **environment)


def kill_and_resume(kind, count, words, folder):
    """Kill all processes after the unfreezing, and continue."""
    ranks = start(kind, count, words, folder)
    ranks[0].wait_for(f"step {UNFREEZE + 1}/{STEPS}")
    for rank in ranks:
        rank.process.kill()
        rank.process.join()
    assert "resuming from checkpoint-" in finish(start(kind, count, [*words, *RESUME], folder))


def finish(ranks):
    done = [rank.wait() for rank in ranks]
    assert [code for code, _ in done] == [0] * len(ranks), "".join(said for _, said in done)
    return "".join(said for _, said in done)


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


LOGITS = """
import sys
sys.modules["smol_hf"] = None
import torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32, trust_remote_code=True).eval()
generator = torch.Generator().manual_seed(0)
side, number = model.config.image_side, model.config.image_seq_len
image = torch.full((1, number), model.config.image_token_id)
ids = torch.cat([image, torch.randint(10, 300, (1, 12), generator=generator)], dim=1)
with torch.inference_mode():
    out = model(input_ids=ids, pixel_values=torch.randn((1, 1, 3, side, side), generator=generator))
torch.save(out.logits, sys.argv[2])
"""


def logits(folder):
    """Of an image of noise and some tokens, computed without this package."""
    result = folder.with_name(f"{folder.name}.logits")
    isolated = run_isolated([sys.executable, "-c", LOGITS, str(folder), str(result)])
    assert isolated.returncode == 0, isolated.stderr
    return torch.load(result)


def assert_same(output, other):
    assert losses(output) == pytest.approx(losses(other), abs=1e-6)
    assert torch.allclose(logits(output / "checkpoint"), logits(other / "checkpoint"), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Return the folder of an unbroken run of one process with these keys. Each is trained once."""
    runs = {}

    def run(**keys):
        name = str(keys)
        if name not in runs:
            output = tmp_path_factory.mktemp("one") / "run"
            result = call([*train_words(output, **keys), *ON_CPU])
            assert result.returncode == 0, result.stderr
            runs[name] = output
        return runs[name]

    return run


@pytest.fixture(scope="module")
def keys_of(one_process):
    """Return the further keys of a kind of run."""

    def keys(kind):
        if kind == "lora":
            return {
                "config": None, "model": one_process() / "checkpoint", "data": "digits", "use_peft": "true",
                "lora_r": 4, "lora_dropout": 0, "lora_parts": "[vision, text]",
            }  # fmt: skip
        return {"gradient_checkpointing": "true"} if kind == "checkpointing" else {}

    return keys


def assert_merged(output, folder):
    """The shards of the last checkpoint become the published model, and a damaged one is named."""
    merged = call(["merge", output / f"checkpoint-{STEPS}", folder / "merged"])
    assert merged.returncode == 0, merged.stderr
    assert torch.equal(logits(folder / "merged"), logits(output / "checkpoint"))
    assert call(["check", folder / "merged"]).returncode == 0
    shard = next((output / f"checkpoint-{STEPS}" / "pytorch_model_fsdp_0").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    refused = call(["merge", output / f"checkpoint-{STEPS}", folder / "damaged"])
    assert refused.returncode == 1 and f"{shard.name} has 100 bytes, not" in refused.stderr
    assert not (folder / "damaged").exists()


KINDS = ("plain", "ddp", "sharded", "full", "lora", "checkpointing")


@pytest.mark.parametrize("kind", KINDS if EVERY else ["lora"])
def test_a_killed_and_resumed_run_is_the_run_of_one_process(kind, one_process, keys_of, tmp_path):
    output, count, keys = tmp_path / "run", 1 if kind == "plain" else 2, keys_of(kind)
    kill_and_resume(kind, count, train_words(output, count, **keys), tmp_path)
    assert_same(output, one_process(**(keys if kind == "lora" else {})))
    checked = call(["check", output / "checkpoint"])
    assert checked.returncode == 0, checked.stdout
    if next(output.glob("checkpoint-*/pytorch_model_fsdp_0"), None):
        assert_merged(output, tmp_path)


EACH_WAY = [(kind, *way) for kind in KINDS[1:] for way in ((2, 1, 2), (1, 2, 2))] + [("sharded", 2, 1, 4)]


@pytest.mark.skipif(not EVERY, reason="`make test-all` runs this")
@pytest.mark.parametrize(("kind", "before", "after", "step"), EACH_WAY)
def test_a_run_is_resumed_on_another_number_of_processes(kind, before, after, step, one_process, keys_of, tmp_path):
    output, keys = tmp_path / "run", {**keys_of(kind), "lr_scheduler_type": "constant"}
    finish(start(kind, before, train_words(output, before, **keys, max_steps=step), tmp_path))
    finish(start(kind, after, [*train_words(output, after, **keys), *RESUME], tmp_path))
    assert_same(output, one_process(**(keys if kind == "lora" else {"lr_scheduler_type": "constant"})))


def test_fsdp_of_the_recipe_reads_its_file(one_process, tmp_path):
    (tmp_path / "fsdp.yaml").write_text("version: 2\nstate_dict_type: FULL_STATE_DICT\nreshard_after_forward: true\n")
    output = tmp_path / "run"
    words = train_words(output, 2, fsdp="true", fsdp_config=tmp_path / "fsdp.yaml")
    printed = finish(fork_sharded(2, words, tmp_path, ACCELERATE_USE_FSDP="false"))
    assert "2 processes (FSDP2) on cpu, precision float32, 4 rows per step" in printed
    assert losses(output) == pytest.approx(losses(one_process()), abs=1e-6)


@pytest.fixture
def spike_in_step_5(monkeypatch):
    """Of the last process only; a step is compared with three."""
    inner = SmolTrainer.compute_loss

    def compute_loss(self, *args, **more):
        is_last = self.accelerator.process_index == self.accelerator.num_processes - 1
        return inner(self, *args, **more) * (50 if is_last and self.state.global_step == 4 else 1)

    monkeypatch.setattr(SmolTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr(skipped_steps, "LEAST", 3)


@pytest.mark.skipif(not EVERY, reason="`make test-all` runs this")
@pytest.mark.parametrize("strategy", ["DDP", "FSDP2"])
def test_all_processes_skip_the_spike_of_one(strategy, spike_in_step_5, tmp_path):
    keys = {"spike_policy": "skip", "unfreeze_vision_at_step": 0, "save_steps": None, "save_strategy": "no"}
    assert call([*train_words(tmp_path / "one", **keys), "--use_cpu", "true"]).returncode == 0
    words = train_words(tmp_path / "two", 2, **keys)
    ddp = strategy == "DDP"
    finish(fork_ranks(2, [*words, "--use_cpu", "true"], tmp_path) if ddp else fork_sharded(2, words, tmp_path))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "skipped_steps.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [entry["step"] for entry in two] == [entry["step"] for entry in one] == [5]
    assert two[0]["skipped"] and sorted(two[0]["samples"]) == sorted(one[0]["samples"]) and len(one[0]["samples"]) == 4
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6), "no weight has changed"


@pytest.mark.parametrize("environment, keys", [({"ACCELERATE_USE_FSDP": "true"}, {}), ({}, {"fsdp": "true"})])
def test_another_strategy_than_the_one_asked_for_is_refused(environment, keys, tmp_path):
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    words = [*train_words(tmp_path / "run", **keys), *ON_CPU]
    environment = {**alone, "MASTER_PORT": str(free_port()), **environment}
    code, printed = fork_command(words, tmp_path / "printed.txt", **environment).wait(60)
    assert code == 1 and "FSDP was asked for, but what runs is" in printed and "Traceback" not in printed


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch):
    PartialState()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"but 1 process would train together: no GPU was found.* --use_cpu true"):
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


@pytest.mark.skipif(not EVERY, reason="`make test-all` runs this")
def test_muon_of_two_processes_is_that_of_one_up_to_the_rounding_of_bfloat16(tmp_path):
    """It orthogonalises in bfloat16, and products of sharded matrices are summed in another order."""
    one = call([*train_words(tmp_path / "one", optim="muon"), "--use_cpu", "true"])
    assert one.returncode == 0, one.stderr
    kill_and_resume("sharded", 2, train_words(tmp_path / "run", 2, optim="muon"), tmp_path)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)
