"""A resumed run with another recipe: each key repeats or changes, as declared, and the card says what changed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import dpo_words, train_words

from smol_hf.commands.main import main
from smol_hf.training.checkpoint.checkpoints import CheckpointError
from smol_hf.training.checkpoint.same_run import check_same_run, digests_of_local_files, settings_for_resume
from smol_hf.training.log.console import read_log
from smol_hf.training.model.chat_template import CHATML
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.inherited_keys import INHERITED, key_of
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import ARGUMENT_CLASSES as OF_TRAIN
from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES as OF_DPO
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.run import train

RESUME = ("--resume_from_checkpoint", "true")
CONSTANT = {"max_steps": 4, "lr_scheduler_type": "constant", "warmup_steps": 0}


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    output = tmp_path_factory.mktemp("four") / "run"
    assert main(train_words(output, **CONSTANT)) == 0
    return output


@pytest.fixture
def output(four_steps, tmp_path):
    return shutil.copytree(four_steps, tmp_path / "run")


def words(output, **keys):
    return [*train_words(output, **{**CONSTANT, **keys}), *RESUME]


def test_every_key_is_declared_once():
    """As a field of ours, or in the table of inherited keys; a key of both commands has one policy."""
    entries = [entry for each in (*OF_TRAIN, *OF_DPO) for entry in dataclasses.fields(each) if entry.init]
    assert all(("key" in entry.metadata) or entry.name in INHERITED for entry in entries)
    for entry in entries:
        if entry.name in INHERITED:
            assert key_of(entry) is INHERITED[entry.name]
        assert {key_of(other).resume for other in entries if other.name == entry.name} == {key_of(entry).resume}


def test_another_learning_rate_counts_from_the_first_resumed_step(output):
    """So small a rate changes no weight; one step at the old rate would."""
    assert main(words(output, max_steps=8, learning_rate=1e-30)) == 0
    before = load_file(output / "checkpoint-4" / "model.safetensors")
    after = load_file(output / "checkpoint-8" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_may_change_changes_in_the_optimizer_the_record_and_the_card(output):
    keys = {
        "max_steps": 8, "learning_rate": 1e-4, "vision_learning_rate": 3e-4, "weight_decay": 0.5, "adam_beta1": 0.8,
        "adam_beta2": 0.9, "adam_epsilon": 1e-6, "max_grad_norm": 0.5, "lr_scheduler_type": "linear",
    }  # fmt: skip
    trainer = train(*load_arguments(words(output, **keys)[1:]))
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}
    assert groups["text"]["initial_lr"] == 1e-4 and groups["vision"]["initial_lr"] == 3e-4
    assert groups["text"]["weight_decay"] == 0.5 and groups["text_no_decay"]["weight_decay"] == 0
    assert all(group["betas"] == (0.8, 0.9) and group["eps"] == 1e-6 for group in groups.values())
    assert trainer.args.max_grad_norm == 0.5
    assert [entry["learning_rate_text"] for entry in read_log(output)[3:-1]][-1] < 1e-4, "linear, no longer constant"
    saved = json.loads((output / "checkpoint-8" / "run.json").read_text())
    (change,) = saved["changes"]
    assert change["step"] == 4
    assert change["changed"] == {
        **{"max_steps": [4, 8], "learning_rate": [1e-2, 1e-4], "vision_learning_rate": [None, 3e-4]},
        **{"weight_decay": [0.0, 0.5], "adam_beta1": [0.9, 0.8], "adam_beta2": [0.999, 0.9]},
        **{"adam_epsilon": [1e-8, 1e-6], "max_grad_norm": [1.0, 0.5], "lr_scheduler_type": ["constant", "linear"]},
    }
    assert main(words(output, **keys | {"max_steps": 12, "weight_decay": 0.0})) == 0
    changes = json.loads((output / "run.json").read_text())["changes"]
    assert [each["step"] for each in changes] == [4, 8]
    assert changes[1]["changed"] == {"max_steps": [8, 12], "weight_decay": [0.5, 0.0]}
    card = (output / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "Changed from step 4 on" in card and "learning_rate 0.01 → 0.0001" in card
    assert "Changed from step 8 on" in card and "weight_decay 0.5 → 0.0" in card


def test_an_unchanged_resumption_records_nothing(output):
    assert main(words(output)) == 0
    assert json.loads((output / "run.json").read_text())["changes"] == []
    assert "Changed from" not in (output / "checkpoint" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        ({"optim": "sgd"}, "optim 'adamw_torch_fused' → 'sgd'"),
        ({"data_lanes": 2}, "data_lanes 4 → 2"),
        ({"seed": 1}, "seed 0 → 1"),
        ({"longest_edge": 64}, "longest_edge None → 64"),
        ({"max_steps": 3}, "max_steps 3 is below step 4 of checkpoint-4"),
        ({"max_steps": -1, "num_train_epochs": 0.2}, "num_train_epochs 3.0 → 0.2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_must_repeat_is_refused_by_name(keys, change, four_steps, capsys):
    card = (four_steps / "checkpoint" / "README.md").read_bytes()
    assert main(words(four_steps, **keys)) == 1
    error = capsys.readouterr().err
    assert change in error and "Traceback" not in error
    assert (four_steps / "checkpoint" / "README.md").read_bytes() == card


def test_a_schedule_that_keeps_a_state_refuses_other_rates(output):
    arguments = load_arguments(words(output, learning_rate=1e-3)[1:])[1:]
    before = json.loads((output / "checkpoint-4" / "run.json").read_text())
    now = {**before, **settings_for_resume(*arguments)}
    assert check_same_run(output / "checkpoint-4", now) == ["learning_rate 0.01 → 0.001"]
    before["settings"]["lr_scheduler_type"] = now["settings"]["lr_scheduler_type"] = "greedy"
    (output / "checkpoint-4" / "run.json").write_text(json.dumps(before))
    with pytest.raises(CheckpointError, match=r"another recipe: learning_rate 0\.01 → 0\.001"):
        check_same_run(output / "checkpoint-4", now)


def test_preferences_go_on_with_another_rate_and_refuse_another_loss(tmp_path, capsys):
    output = tmp_path / "run"
    keys = {"lr_scheduler_type": "constant", "weight_decay": 0.0}
    assert main(dpo_words(output, tmp_path, max_steps=4, **keys)) == 0
    again = [*dpo_words(output, tmp_path, max_steps=8, learning_rate=1e-30, **keys), *RESUME]
    assert main([*again, "--beta", "0.2"]) == 1
    assert "beta 0.1 → 0.2" in capsys.readouterr().err
    assert main(again) == 0
    before = load_file(output / "checkpoint-4" / "model.safetensors")
    after = load_file(output / "checkpoint" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "learning_rate 0.001 → 1e-30" in (output / "checkpoint" / "README.md").read_text(encoding="utf-8")


def test_files_that_changed_in_place_are_refused_by_name(tmp_path, capsys):
    output, template = tmp_path / "run", tmp_path / "t.jinja"
    template.write_text(CHATML, encoding="utf-8")
    keys = {"lr_scheduler_type": "constant", "max_steps": 4, "chat_template": str(template)}
    assert main(dpo_words(output, tmp_path, **keys)) == 0
    weights = tmp_path / "base" / "model.safetensors"
    again = [*dpo_words(output, tmp_path, **keys | {"max_steps": 6}), *RESUME]
    for path, other in ((template, ("{# another #}" + CHATML).encode()), (weights, None)):
        held = path.read_bytes()
        if other is None:
            save_file({name: value + 1 for name, value in load_file(path).items()}, path, {"format": "pt"})
        else:
            path.write_bytes(other)
        capsys.readouterr()
        assert main(again) == 1
        error = capsys.readouterr().err
        assert f"checkpoint-4 was made with other contents of {'model' if other is None else 'chat_template'}" in error
        assert str(path) in error and "Traceback" not in error
        path.write_bytes(held)
    for record in (output / "run.json", output / "checkpoint-4" / "run.json"):
        saved = json.loads(record.read_text())
        assert saved.pop("files")
    assert main(again) == 0


def test_files_are_the_tokenizer_the_adapters_and_the_base_of_lora(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (tmp_path / "mine.py").write_text("")
    training = SmolTrainingArguments(output_dir=str(tmp_path / "run"), max_steps=1, use_cpu=True)

    def names(model, **data):
        found = digests_of_local_files(ModelArguments(**model), DataArguments(**data), training)
        return {(name.split()[0], Path(name.split()[1]).name) for name in found}

    assert names({"tokenizer": str(folder)}) == {("tokenizer", "tokenizer.json")}
    assert names({"model": str(folder)}) == {("model", "tokenizer.json")}
    both = {("model", "tokenizer.json"), ("model", "model.safetensors")}
    assert names({"model": str(folder), "use_peft": True}) == both
    assert names({}, data="a.jsonl", adapter=f"{tmp_path / 'mine.py'}:cards") == {("adapter", "mine.py")}
    mixture = [{"data": "a.jsonl", "adapter": str(tmp_path / "mine.py")}]
    assert names({}, mixture=mixture) == {("adapter", "mine.py")}
