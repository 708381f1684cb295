"""kill -9 in mid-run, resume, and the run continues exactly. Real (forked) processes, real files."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
import yaml
from processes import call, fork_command
from safetensors.torch import load_file
from tiny_runs import signal_after

from smol_hf.training.checkpoint.checkpoints import (
    CheckpointError,
    choose_checkpoint,
    list_checkpoints,
    move_into_place,
    verify,
)
from smol_hf.training.log.console import read_log
from smol_hf.training.recipe.recipes import load_arguments

STEPS, UNFREEZE = 12, 6
RECIPE = {
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "attention_dropout": 0.1,
    },
    "text_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "attention_dropout": 0.1, "max_position_embeddings": 256,
    },
    "data": "digits", "num_pages": 40, "turns_per_page": 2, "context_length": 256,
    "per_device_train_batch_size": 4, "max_steps": STEPS, "learning_rate": 1e-3, "unfreeze_vision_at_step": UNFREEZE,
    "logging_steps": 1, "save_steps": 2, "use_cpu": True, "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def command(recipe, output, *overrides):
    return ["train", "--config", recipe, "--output_dir", output, *overrides]


def run(recipe, output, *overrides):
    return call(command(recipe, output, *overrides))


def run_until_killed(recipe, output, step):
    """Start a run and kill it as soon as it has logged `step`."""
    process = fork_command(command(recipe, output), output.with_suffix(".txt"))
    signal_after(output, step, signal.SIGKILL, process=process.pid)
    code, said = process.wait()
    assert code == -signal.SIGKILL, said


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = run(recipe, output)
    assert result.returncode == 0, result.stderr
    assert len(losses(output)) == STEPS
    return output


@pytest.mark.parametrize("step", [4, 9], ids=["before the unfreezing", "after the unfreezing"])
def test_a_killed_run_resumes_exactly(step, recipe, uninterrupted, tmp_path):
    output = tmp_path / "run"
    run_until_killed(recipe, output, step)
    assert not (output / "checkpoint").exists()
    resumed = run(recipe, output, "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from checkpoint-" in resumed.stdout
    assert losses(output) == losses(uninterrupted), "the same losses, to the last bit"
    mine = load_file(output / "checkpoint" / "model.safetensors")
    theirs = load_file(uninterrupted / "checkpoint" / "model.safetensors")
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    counters = [
        json.loads((folder / f"checkpoint-{STEPS}" / "counters.json").read_text())
        for folder in (output, uninterrupted)
    ]
    assert counters[0] == counters[1], "the books go on where they stopped"


def test_what_is_damaged_is_passed_over_by_name(recipe, uninterrupted, tmp_path):
    output = tmp_path / "run"
    run_until_killed(recipe, output, 9)
    newest, before = choose_checkpoint(output, True)[0], sorted(output.glob("checkpoint-*"))
    assert len(before) >= 2
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    (output / ".incomplete" / "checkpoint-99").mkdir(parents=True)  # what a kill in mid-save leaves
    resumed = run(recipe, output, "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr
    assert f"not resuming from {newest.name}: optimizer.pt has" in resumed.stdout
    assert losses(output) == losses(uninterrupted)
    assert not (output / ".incomplete").exists()


def test_the_resolved_recipe_repeats_the_run(recipe, uninterrupted):
    given = load_arguments(["--config", str(recipe), "--output_dir", str(uninterrupted)])
    resolved = load_arguments(["--config", str(uninterrupted / "recipe.yaml")])
    for one, other in zip(given[1:], resolved[1:]):
        same = {key: value for key, value in vars(one).items() if isinstance(value, (int, float, str, dict, list))}
        same.pop("logging_dir", None)
        assert {key: vars(other)[key] for key in same} == same
    run_state = json.loads((uninterrupted / "run.json").read_text())
    assert run_state["seed"] == 7 and len(run_state["data_fingerprint"]) == 64
    assert {"torch", "transformers", "trl", "smol_hf"} <= run_state["versions"].keys()


def test_other_data_under_a_resumed_run_is_refused(recipe, uninterrupted):
    result = run(recipe, uninterrupted, "--resume_from_checkpoint", "true", "--num_pages", "41")
    assert result.returncode == 1
    assert "was trained on other data" in result.stderr


@pytest.mark.parametrize(
    ("override", "change"),
    [
        (("--per_device_train_batch_size", "8"), "rows of a step 4 → 8"),
        (("--image_mean", "[0.1,0.2,0.3]"), "image_mean None → [0.1, 0.2, 0.3]"),
        (("--text_config.num_hidden_layers", "1"), "text_config"),
        (("--text_learning_rate", "0"), "frozen parts [] → ['text']"),
        (("--resume_from_checkpoint", "/nowhere"), "there is no checkpoint /nowhere"),
    ],
)
def test_another_recipe_under_a_resumed_run_is_refused(override, change, recipe, uninterrupted):
    given = () if "--resume_from_checkpoint" in override else ("--resume_from_checkpoint", "true")
    result = run(recipe, uninterrupted, *given, *override)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert change in result.stderr


def test_a_run_does_not_start_over_in_a_folder_with_checkpoints(recipe, uninterrupted):
    result = run(recipe, uninterrupted)
    assert result.returncode == 1
    assert "--resume_from_checkpoint true" in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def checkpoint(uninterrupted, tmp_path):
    """A copy of a real checkpoint, in an output folder of its own."""
    folder = tmp_path / "out" / f"checkpoint-{STEPS}"
    folder.mkdir(parents=True)
    for path in (uninterrupted / folder.name).iterdir():
        os.link(path, folder / path.name)
    verify(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "config.json"]
)
def test_every_missing_or_changed_file_is_noticed(name, checkpoint):
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        verify(checkpoint)
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    (checkpoint / name).write_bytes(bytes(flipped))
    with pytest.raises(CheckpointError, match=f"content of {name} changed"):
        verify(checkpoint)
    (checkpoint / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"{name} has {len(content) - 1} bytes, not {len(content)}"):
        choose_checkpoint(checkpoint.parent, str(checkpoint))
    with pytest.raises(CheckpointError, match="no checkpoint can be resumed from"):
        choose_checkpoint(checkpoint.parent, True)


def test_a_checkpoint_saved_without_optimizer_is_never_resumed(checkpoint):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name in ("optimizer.pt", "scheduler.pt"):
        kept = {key: value for key, value in manifest["files"].items() if key != name}
        (checkpoint / "manifest.json").unlink()
        (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "files": kept}))
        with pytest.raises(CheckpointError, match="which resuming needs"):
            verify(checkpoint)


@pytest.mark.parametrize("manifest", ['{"files": null}', '{"files": {"model.safetensors": {}}}', "[]", "", "{"])
def test_a_manifest_that_is_none_is_damage(manifest, checkpoint):
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        verify(checkpoint)


def test_a_folder_without_manifest_was_never_completed(checkpoint):
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="never completed"):
        verify(checkpoint)


def test_what_has_the_name_of_a_checkpoint_and_is_none_is_passed_over(checkpoint):
    output = checkpoint.parent
    (output / "checkpoint-99").write_text("a file")
    (output / "checkpoint-98" / "manifest.json").mkdir(parents=True)
    assert list_checkpoints(output) == [output / "checkpoint-98", checkpoint]
    assert choose_checkpoint(output, True) == (
        checkpoint,
        [
            "not resuming from checkpoint-99: it is a file, not the folder of a checkpoint",
            "not resuming from checkpoint-98: manifest.json is a folder, not a file",
            f"resuming from {checkpoint.name}",
        ],
    )
    move_into_place(checkpoint, output / "checkpoint-99")
    verify(output / "checkpoint-99")


def test_for_the_output_folder_of_a_run_its_newest_checkpoint_is_named(checkpoint, tmp_path):
    output = checkpoint.parent
    said = f"{output} is the output folder of a run, not a checkpoint: resume its newest, {checkpoint.name}, with"
    for other, how in ((output, "true"), (tmp_path / "other", checkpoint)):
        with pytest.raises(CheckpointError, match=re.escape(f"{said} --resume_from_checkpoint {how}")):
            choose_checkpoint(other, str(output))


def test_nothing_to_resume_starts_at_step_zero_and_says_so(tmp_path):
    assert choose_checkpoint(tmp_path, True) == (None, [f"{tmp_path} holds no checkpoint yet: starting at step 0"])
    assert choose_checkpoint(tmp_path, None) == (None, [])


def test_a_packed_run_goes_on_with_workers_and_other_batches(recipe, tmp_path):
    """The rows are the same whoever makes them; the losses of two halves sum to that of the whole."""
    packed = ["--sample_packing", "true", "--packing_pool", "8", "--text_config.attention_dropout", "0",
              "--vision_config.attention_dropout", "0", "--per_device_train_batch_size", "2"]  # fmt: skip
    whole, part = tmp_path / "whole", tmp_path / "part"
    result = run(recipe, whole, *packed)
    assert result.returncode == 0, result.stderr
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoint")
    for step in (8, 10, 12):
        shutil.rmtree(part / f"checkpoint-{step}", ignore_errors=True)
    packed[-1] = "1"
    others = ["--gradient_accumulation_steps", "2", "--dataloader_num_workers", "2"]
    result = run(recipe, part, *packed, *others, "--resume_from_checkpoint", "true")
    assert result.returncode == 0, result.stderr
    assert "resuming from checkpoint-6" in result.stdout
    assert losses(part) == pytest.approx(losses(whole), abs=1e-5)
    counts = [[entry["total_tokens"] for entry in read_log(folder) if "loss" in entry] for folder in (whole, part)]
    assert counts[0] == counts[1]
    entry = [entry for entry in read_log(whole) if "loss" in entry][-1]
    assert entry["padding_fraction"] == 0 and entry["total_tokens"] > 0.9 * 256 * 2 * STEPS
