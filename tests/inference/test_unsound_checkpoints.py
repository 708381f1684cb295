"""Damaged and hostile checkpoints are refused with one sentence, in bounded time."""

import json
import shutil
import time

import pytest
import torch
from chat_models import SMOLLM2_INSTRUCT, chat_tokenizer, save_base
from helpers import build_model, build_processor
from safetensors.torch import load_file, save_file

from smol_hf.commands.main import main
from smol_hf.processing.chat_rendering import EndlessTemplateError, render_bounded
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.publishing.space.local_app import serve_locally
from smol_hf.training.model.sound_checkpoint import UnsoundCheckpointError, refuse_unsound_config
from smol_hf.training.model.text_composition import build_language_model
from smol_hf.training.recipe.model_arguments import ModelArguments

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
COMMANDS = {
    "generate": ["generate", "CHECKPOINT", "--prompt", "x", "--max-new-tokens", "2"],
    "chat": ["chat", "CHECKPOINT", "--prompt", "x", "--max-new-tokens", "2"],
    "check": ["check", "CHECKPOINT"],
    "serve": ["serve", "CHECKPOINT"],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A vision-language checkpoint and a text one."""
    place = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    publish_checkpoint(place / "vision", build_model(processor), processor)
    save_base(place / "text", "ours")
    chat_tokenizer(SMOLLM2_INSTRUCT).save_pretrained(place / "text")
    return place


@pytest.fixture(params=["vision", "text"])
def checkpoint(request, sound, tmp_path):
    return shutil.copytree(sound / request.param, tmp_path / request.param)


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def poison(tensors):
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    tensors[name][0, 0] = float("nan")


def drop(tensors):
    del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("damage", "message"), [(poison, "NaN or infinity"), (drop, "is missing")])
def test_weights_that_are_missing_or_not_finite_are_refused(command, damage, message, checkpoint, capsys):
    change_weights(checkpoint, damage)
    words = [word.replace("CHECKPOINT", str(checkpoint)) for word in COMMANDS[command]]
    assert main(words) == 1
    captured = capsys.readouterr()
    if command == "check":
        report = " ".join(captured.out.replace("│", " ").split())
        assert "1 are not, first" in report if damage is poison else "1 tensor is missing" in report
    else:
        assert captured.err.count("error:") == 1 and message in captured.err and "up_proj" in captured.err


@pytest.mark.parametrize(("damage", "message"), [(poison, "holds NaN or infinity"), (drop, "is missing")])
def test_training_does_not_begin_with_them(damage, message, sound, tmp_path):
    folder = shutil.copytree(sound / "text", tmp_path / "text")
    change_weights(folder, damage)
    with pytest.raises(UnsoundCheckpointError, match=rf"1 \w+ {message}, first model.layers.1.mlp.up_proj.weight"):
        build_language_model(ModelArguments(model=str(folder)), ())


@pytest.mark.parametrize("command", ["generate", "chat", "check", "serve", "estimate", "convert", "compose", "train"])
def test_a_million_layers_are_refused_at_once(command, sound, tmp_path, capsys):
    kind = "vision" if command in ("chat", "compose") else "text"
    checkpoint = shutil.copytree(sound / kind, tmp_path / kind)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    text["num_hidden_layers"] = 10**6
    del text["no_rope_layers"]  # one for each layer
    path.write_text(json.dumps(config))
    data = tmp_path / "data.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    words = {
        **COMMANDS,
        "estimate": ["estimate", "CHECKPOINT"],
        "convert": ["convert", "CHECKPOINT", str(tmp_path / "out")],
        "compose": ["compose", str(tmp_path / "out"), "--vision", "CHECKPOINT", "--text", "CHECKPOINT"],
        "train": ["train", "--model", "CHECKPOINT", "--data", str(data), "--output_dir", str(tmp_path / "run")],
    }[command]
    started = time.monotonic()
    assert main([word.replace("CHECKPOINT", str(checkpoint)) for word in words]) == 1
    assert time.monotonic() - started < 60
    assert "num_hidden_layers is 1,000,000" in " ".join(capsys.readouterr().err.split())


def test_a_template_that_never_ends_is_stopped(checkpoint, tmp_path, capsys, monkeypatch):
    assert render_bounded.__defaults__ == (5.0,)
    monkeypatch.setattr(render_bounded, "__defaults__", (0.4,))
    (checkpoint / "chat_template.jinja").write_text(ENDLESS)
    data = tmp_path / "data.jsonl"
    turn = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    data.write_text(f"{json.dumps(turn)}\n" * 20)
    for words in (
        ["chat", str(checkpoint), "--prompt", "x", "--max-new-tokens", "2"],
        ["data", "stats", str(data), "--model", str(checkpoint)],
    ):
        started = time.monotonic()
        assert main(words) == 1
        assert time.monotonic() - started < 60
        assert "the chat template did not end within 0.4 s" in capsys.readouterr().err


def test_a_template_is_rendered_as_transformers_does():
    template = "{% for message in messages %}{% generation %}{{ message.content }}{% endgeneration %}{% endfor %}"
    arguments = {"conversations": [[{"role": "a", "content": "Yes"}]], "chat_template": template}
    assert render_bounded(**arguments, return_assistant_tokens_mask=True) == (["Yes"], [[(0, 3)]])
    with pytest.raises(EndlessTemplateError, match=r"within 0\.2 s"):
        render_bounded(0.2, **{**arguments, "chat_template": ENDLESS})


def test_a_page_of_a_folder_without_weights_is_still_served(sound, tmp_path, monkeypatch):
    """Random weights are announced on the page; only damaged ones are refused."""
    folder = shutil.copytree(sound / "text", tmp_path / "text")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail("reached") if name == "app" else None)
    with pytest.raises(pytest.fail.Exception, match="reached"):
        serve_locally(str(folder))


def change_config(folder, part, **values):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(values)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("command", [*COMMANDS, "estimate"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), {"__float__": "NaN"}])
@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_a_number_of_the_configuration_that_is_not_finite_is_refused(command, value, key, sound, tmp_path, capsys):
    folder = shutil.copytree(sound / "vision", tmp_path / "vision")
    change_config(folder, None, **{key: [0.5, value, 0.5]})
    words = {**COMMANDS, "estimate": ["estimate", "CHECKPOINT"]}[command]
    assert main([word.replace("CHECKPOINT", str(folder)) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert f"{folder}: {key} of its configuration holds NaN or infinity" in error


def test_a_limit_of_mamba_may_be_infinite():
    refuse_unsound_config({"time_step_limit": [0.0, float("inf")]}, "mamba")
    with pytest.raises(UnsoundCheckpointError, match="rope_theta of its configuration holds NaN"):
        refuse_unsound_config({"text_config": {"rope_parameters": {"rope_theta": float("nan")}}}, "model")


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "estimate", "convert"])
@pytest.mark.parametrize(("part", "values"), [
    ("text_config", {"hidden_act": "evil"}), ("text_config", {"hidden_size": None}),
    ("vision_config", {"hidden_act": "evil"}), ("vision_config", {"hidden_size": None}),
    ("vision_config", {"num_attention_heads": 0}), (None, {"hidden_act": "evil"}), (None, {"hidden_size": "big"}),
])  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(command, part, values, sound, tmp_path, capsys):
    folder = shutil.copytree(sound / ("vision" if part else "text"), tmp_path / "model")
    change_config(folder, part, **values)
    words = {
        **COMMANDS,
        "estimate": ["estimate", "CHECKPOINT"],
        "convert": ["convert", "CHECKPOINT", str(tmp_path / "out")],
    }[command]
    assert main([word.replace("CHECKPOINT", str(folder)) for word in words]) == 1
    error = capsys.readouterr().err
    ((key, value),) = values.items()
    assert error.count("error:") == 1 and error.strip().count("\n") == 0, error
    assert key in error and (command == "convert" or f"{folder}: " in error), error
    assert command == "convert" or json.dumps(value) in error, error


@pytest.mark.parametrize(("command", "part", "values"), [
    ("dpo", None, {"hidden_act": "evil"}), ("dpo", None, {"hidden_size": "big"}),
    ("train", None, {"hidden_act": "evil"}), ("train", "text_config", {"hidden_act": "evil"}),
    ("train", "vision_config", {"hidden_size": None}),
])  # fmt: skip
def test_a_run_names_a_value_that_cannot_be_used(command, part, values, sound, tmp_path, capsys):
    folder = shutil.copytree(sound / ("vision" if part else "text"), tmp_path / "model")
    change_config(folder, part, **values)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "What?", "chosen": "Red.", "rejected": "Blue."}\n')
    data = ["--data", str(tmp_path / "pairs.jsonl")] if command == "dpo" else ["--data", "digits", "--num_pages", "4"]
    words = [command, "--model", str(folder), *data, "--max_steps", "1", "--use_cpu", "true"]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    ((key, value),) = values.items()
    expected = f"{folder}: its configuration has the unusable value {key}: {json.dumps(value)}"
    assert expected in error and error.count("error:") == 1 and error.strip().count("\n") == 0, error


@pytest.mark.parametrize("command", ["generate", "estimate"])
def test_a_negative_number_of_layers_is_refused(command, sound, tmp_path, capsys):
    folder = shutil.copytree(sound / "vision", tmp_path / "model")
    change_config(folder, "vision_config", num_hidden_layers=-1)
    words = COMMANDS.get(command, ["estimate", "CHECKPOINT"])
    assert main([word.replace("CHECKPOINT", str(folder)) for word in words]) == 1
    assert f"{folder}: num_hidden_layers is -1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [*COMMANDS, "estimate", "convert"])
def test_the_output_folder_of_a_run_leads_to_its_checkpoint(command, sound, tmp_path, capsys):
    run = tmp_path / "run"
    words = {
        **COMMANDS,
        "estimate": ["estimate", "CHECKPOINT"],
        "convert": ["convert", "CHECKPOINT", str(tmp_path / "out")],
    }[command]
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint"):  # the newest state, until there is a checkpoint
        shutil.copytree(sound / "text", run / name)
        assert main([word.replace("CHECKPOINT", str(run)) for word in words]) == 1
        error = capsys.readouterr().err
        assert error.count("error:") == 1 and error.endswith(f"did you mean {run / name}?\n"), error
