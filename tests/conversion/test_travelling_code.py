"""Checkpoints that carry old code: they are recognised, and renewed without touching the weights."""

import json
import shutil

import pytest
import torch
from chat_models import base_tokenizer, save_base
from helpers import build_model, build_processor
from isolated_runs import run_isolated
from modeling.builders import randomise
from peft import LoraConfig, get_peft_model

from smol_hf import SmolHFForCausalLM
from smol_hf.commands.main import main
from smol_hf.conversion.checking.check import check, is_installed_here
from smol_hf.conversion.checking.travelling_code import outdated_code, refresh_code
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.training.model.composition import prepare_generation


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A vision-language checkpoint, a text one, and an adapter over the first."""
    place = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    processor = build_processor()
    model = randomise(build_model(processor))
    prepare_generation(model, processor)
    publish_checkpoint(place / "vision", model, processor)
    save_base(place / "text-only", "ours")
    tokenizer = base_tokenizer()
    publish_checkpoint(place / "text", SmolHFForCausalLM.from_pretrained(place / "text-only"), tokenizer)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(place / "adapter")
    processor.save_pretrained(place / "adapter")
    return place


def make_old(folder):
    """Another line in each file of code, a file dropped since, a missing one, and fewer Auto classes."""
    for path in folder.glob("*.py"):
        path.write_text("# an earlier release\n" + path.read_text())
    (folder / "dropped_since.py").write_text("")
    (folder / "label_loss.py").touch()  # once a processor carried it too
    with next(folder.glob("*ing_smol_hf*.py")).open("a") as file:
        file.write("\nfrom .dropped_since import anything\n")
    for name in ("config.json", "processor_config.json"):
        if (folder / name).is_file() and "auto_map" in (config := json.loads((folder / name).read_text())):
            config["auto_map"] = dict(list(config["auto_map"].items())[:1])
            (folder / name).write_text(json.dumps(config))
    missing = folder / "chat_rendering.py"
    if missing.exists():
        missing.unlink()


@pytest.mark.parametrize("kind", ["vision", "text", "adapter"])
def test_old_code_is_renewed_and_nothing_else_changes(kind, sound, tmp_path, capsys):
    old = shutil.copytree(sound / kind, tmp_path / "old")
    make_old(old)
    assert {"dropped_since.py"} < set(outdated_code(old))
    assert main(["convert", str(old), str(tmp_path / "new"), "--refresh-code"]) == 0
    assert "removed: dropped_since.py" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {path.name for path in (sound / kind).iterdir()}
    for name in names:
        new, before = tmp_path / "new" / name, sound / kind / name
        if name in ("config.json", "processor_config.json", "tokenizer_config.json"):
            assert json.loads(new.read_text()) == json.loads(before.read_text())
        else:
            assert new.read_bytes() == before.read_bytes(), name
        assert new.suffix != ".py" or is_installed_here(new)
    assert outdated_code(tmp_path / "new") == []


def test_check_recognises_old_code(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)
    old = shutil.copytree(sound / "vision", tmp_path / "old")
    make_old(old)
    found = {finding["name"]: finding for finding in check(old)["findings"]}["model code"]
    assert found["good"] is False and f"smol-hf convert {old} OUT --refresh-code replaces them" in found["value"]
    refresh_code(str(old), tmp_path / "new")
    facts = check(tmp_path / "new")
    assert facts["good"], facts


def test_what_carries_no_code_of_ours_is_refused(sound, tmp_path):
    save_base(tmp_path / "llama")
    with pytest.raises(ConversionError, match="is a llama model: only checkpoints of smol_hf have its code"):
        refresh_code(str(tmp_path / "llama"), tmp_path / "new")
    state = shutil.copytree(sound / "vision", tmp_path / "checkpoint-3")
    (state / "trainer_state.json").write_text("{}")
    with pytest.raises(ConversionError, match="is a training state"):
        refresh_code(str(state), tmp_path / "new")
    with pytest.raises(ConversionError, match="takes a folder"):
        refresh_code("owner/name", tmp_path / "new")
    assert main(["convert", str(state), str(tmp_path / "new"), "--refresh-code", "--to", "native"]) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["refresh", "convert", "merge", "compose"])
def test_an_output_inside_its_source_is_refused(command, sound, tmp_path, capsys):
    source = shutil.copytree(sound / ("adapter" if command == "merge" else "vision"), tmp_path / "source")
    before = sorted(source.rglob("*"))
    output = source / "sub" / "new"
    arguments = {
        "refresh": ["convert", str(source), str(output), "--refresh-code"],
        "convert": ["convert", str(source), str(output)],
        "merge": ["merge", str(source), str(output), "--base", str(sound / "vision")],
        "compose": ["compose", str(output), "--vision", str(source), "--text", str(sound / "text")],
    }[command]
    assert main(arguments) == 1
    assert f"{output} is inside {source}: choose an output outside the source" in capsys.readouterr().err
    assert sorted(source.rglob("*")) == before


def test_files_of_the_user_stay(sound, tmp_path, capsys):
    old = shutil.copytree(sound / "vision", tmp_path / "old")
    make_old(old)
    (old / "own").mkdir()
    kept = ("handler.py", "__init__.py", "own/vision.py", "own/dropped_since.py", "own/notes.txt")
    for name in kept:
        (old / name).write_text(f"# {name}\n")
    assert not {"handler.py", "__init__.py"} & set(outdated_code(old))
    assert main(["convert", str(old), str(tmp_path / "new"), "--refresh-code"]) == 0
    assert "removed: dropped_since.py\n" in capsys.readouterr().out
    assert [(tmp_path / "new" / name).read_text() for name in kept] == [f"# {name}\n" for name in kept]
    assert not (tmp_path / "new" / "dropped_since.py").exists()
