"""`smol-hf check`: a good checkpoint passes, ours and native ones, and each fault is found by its name."""

import json

import pytest
import torch
from conversion.native_models import llava, saved
from helpers import build_model, build_processor
from isolated_runs import run_isolated
from modeling.builders import randomise
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from smol_hf.commands.main import main
from smol_hf.conversion.checking.check import check
from smol_hf.conversion.convert import convert
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.training.model.composition import prepare_generation


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    processor = build_processor()
    model = randomise(build_model(processor))
    prepare_generation(model, processor)
    return publish_checkpoint(tmp_path_factory.mktemp("check") / "checkpoint", model, processor)


@pytest.fixture
def copy(checkpoint, tmp_path):
    import shutil

    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def no_process(monkeypatch):
    """Checks of the files only: loading in a new process takes seconds, and other tests do it."""
    monkeypatch.setattr("smol_hf.conversion.checking.check.check_parity", lambda *_: [])


@pytest.fixture
def forked(monkeypatch):
    """Fork the isolated process; `test_a_published_checkpoint_is_good` launches it."""
    monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)


def findings(folder, **options):
    facts = check(folder, **options)
    return facts["good"], {finding["name"]: finding for finding in facts["findings"]}


def test_a_published_checkpoint_is_good(checkpoint):
    good, found = findings(checkpoint)
    assert good, found
    assert found["logits"]["value"] == "differ by 0 at most"
    assert found["greedy tokens"]["good"] and found["loads without smol_hf"]["good"]
    assert "as installed here" in found["modeling_smol_hf.py"]["value"]
    assert found["image_token_id"]["value"].endswith("<image>")


def test_a_native_export_is_compared_with_transformers_own_class(checkpoint, tmp_path, forked):
    convert(str(checkpoint), tmp_path / "native")
    good, found = findings(tmp_path / "native")
    assert good, found
    assert found["logits"]["good"] and "modeling_smol_hf.py" not in found


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def break_code(folder):
    path = folder / "rotary.py"
    path.write_text(path.read_text().replace("cos()", "sin()"))
    assert "sin()" in path.read_text()


def break_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["connector.proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "name", "value"),
    [
        (lambda x: change_json(x / "generation_config.json", eos_token_id=77), "eos_token_id", "77 in the generation"),
        (lambda x: change_json(x / "generation_config.json", eos_token_id=None), "generation config", "without eos"),
        (lambda x: (x / "generation_config.json").unlink(), "generation config", "missing"),
        (lambda x: torch.save({}, x / "extra.bin"), "pickled files", "extra.bin"),
        (break_weights, "finite", "connector.proj.weight"),
    ],
)
def test_a_fault_of_the_files_is_found_by_its_name(spoil, name, value, copy, no_process):
    assert_found(spoil, name, value, copy)


@pytest.mark.parametrize(
    ("spoil", "name", "value"),
    [
        (lambda x: (x / "attention.py").unlink(), "loads without smol_hf", "attention"),
        (break_code, "logits", "differ by"),
    ],
)
def test_a_fault_of_the_code_is_found_by_its_name(spoil, name, value, copy, forked):
    assert_found(spoil, name, value, copy)


def assert_found(spoil, name, value, copy):
    spoil(copy)
    good, found = findings(copy, trust_remote_code=True)
    assert not good and found[name]["good"] is False
    assert value in found[name]["value"]


def test_code_that_is_not_ours_is_not_run_without_consent(copy, forked):
    path = copy / "rotary.py"
    path.write_text("raise SystemExit('it was run')\n" + path.read_text())
    good, found = findings(copy)
    assert not good and "not tried: rotary.py" in found["loads without smol_hf"]["value"]
    assert "logits" not in found
    _, found = findings(copy, trust_remote_code=True)
    assert "it was run" in found["loads without smol_hf"]["value"]


def test_llava_takes_its_tiles_flat_and_needs_no_tokenizer(tmp_path, forked):
    saved(llava, tmp_path / "llava")
    _, found = findings(tmp_path / "llava")
    assert found["tokenizer"]["value"] == "none in the folder"
    assert found["logits"]["good"] and found["greedy tokens"]["good"]


def test_progress_bars_of_loading_do_not_mix_into_the_output(checkpoint, tmp_path, forked, capfd, request):
    request.addfinalizer(logging.disable_progress_bar)
    for words in (["check", checkpoint], ["convert", checkpoint, tmp_path / "native"]):
        logging.enable_progress_bar()
        assert main(list(map(str, words))) == 0
        assert "it/s" not in capfd.readouterr().err


@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_a_value_for_each_channel_is_needed(key, copy, capsys):
    change_json(copy / "config.json", **{key: [0.5]})
    assert main(["check", str(copy)]) == 1
    assert f"{copy}: {key} of its configuration has 1 value for 3 channels" in capsys.readouterr().err


def test_the_command_prints_a_table_and_its_code_says_whether_all_is_good(checkpoint, copy, no_process, capsys):
    assert main(["check", str(checkpoint)]) == 0
    assert "generation config" in capsys.readouterr().out
    (copy / "generation_config.json").unlink()
    assert main(["check", str(copy), "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["good"] is False
    assert "failed the check" in output.err
