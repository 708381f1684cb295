"""Broken and malicious sources: refused with a message that names the file, nothing run, nothing written."""

import json
import os
import shutil

import pytest
import torch
from conversion.native_models import gpt2, llama, saved, smolvlm
from safetensors.torch import load_file, save_file

from smol_hf.conversion import convert as module
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError


@pytest.fixture
def source(tmp_path):
    saved(llama, tmp_path / "source")
    return tmp_path / "source"


def refused(source, tmp_path, message):
    with pytest.raises(ConversionError, match=message):
        convert(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.incomplete").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pickle_was_run",)


@pytest.mark.parametrize("name", ["ckpt.pt", "source/pytorch_model.bin"])
def test_a_pickle_with_code_is_not_run(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (source / "model.safetensors").unlink()
    torch.save({"model": {"weight": torch.zeros(2)}, "extra": Evil()}, tmp_path / name)
    path = tmp_path / name if name == "ckpt.pt" else source
    refused(path, tmp_path, r"refused, it contains more than tensors.*system")
    assert not (tmp_path / "pickle_was_run").exists()


def test_a_truncated_file(source, tmp_path):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(source, tmp_path, r"model\.safetensors: damaged or cut off")


def test_a_truncated_pt_file(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1000)}}, tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").write_bytes((tmp_path / "ckpt.pt").read_bytes()[:700])
    refused(tmp_path / "ckpt.pt", tmp_path, r"ckpt\.pt: damaged or cut off")


def test_a_missing_shard(source, tmp_path):
    shutil.rmtree(source)
    llama().save_pretrained(source, max_shard_size="20KB")
    shard = sorted(source.glob("model-*.safetensors"))[1]
    shard.unlink()
    refused(source, tmp_path, rf"{shard.name}: this shard is missing")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "a\\b"])
def test_an_index_that_points_elsewhere(name, source, tmp_path):
    save_file({"model.norm.weight": torch.zeros(32)}, tmp_path / "secret.safetensors")
    (source / "model.safetensors").unlink()  # beside whole weights no index is read
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    refused(source, tmp_path, "shards must be in the folder of their index")


@pytest.mark.parametrize("index", ["[]", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}', "{", ""])
def test_an_index_that_is_none(index, source, tmp_path):
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(index)
    refused(source, tmp_path, "index.json")


def change_tensors(source, change):
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("model.norm.weight"), r"1 tensor is missing, first model\.norm\.weight"),
        (lambda x: x.update({"model.layers.0.self_attn.q_norm.weight": torch.zeros(8)}), "1 tensor is unknown"),
        (lambda x: x.update({"visual.weight": torch.zeros(8)}), "belongs to no known part, first visual.weight"),
        (
            lambda x: x.update({"model.norm.weight": torch.zeros(31)}),
            r"model\.norm\.weight is \(31,\) instead of \(32,\)",
        ),
        (lambda x: x.update({"model.norm.weight": torch.full((32,), float("nan"))}), "NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit(change, message, source, tmp_path):
    change_tensors(source, change)
    with pytest.raises(ValueError, match=message):
        convert(str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' cannot be converted; supported are gpt2,"),
        ({"model_type": None}, "model_type None"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
            "type 'yarn' are not supported",
        ),
        ({"hidden_size": 48}, "instead of"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide"),
    ],
)
def test_a_config_that_does_not_fit(changes, message, source, tmp_path):
    change_config(source, **changes)
    with pytest.raises(ValueError, match=message):
        convert(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_a_config_that_is_not_json(text, source, tmp_path):
    (source / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(source, tmp_path, r"config\.json")


def test_unknown_parts_of_a_vision_model(tmp_path):
    saved(smolvlm, tmp_path / "source")
    config = json.loads((tmp_path / "source/config.json").read_text())
    change_config(tmp_path / "source", text_config={**config["text_config"], "model_type": "gpt2"})
    refused(tmp_path / "source", tmp_path, "text_config is 'gpt2': only llama")


def test_what_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "nowhere", tmp_path, "no such file or folder")
    refused(tmp_path / "empty", tmp_path, r"config\.json: there is no such file")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", tmp_path, "must be one of")
    with pytest.raises(ConversionError, match="not found in the local cache"):
        convert("nobody/nothing", tmp_path / "out", local_files_only=True)


def test_an_option_that_would_have_no_effect_is_refused(source, tmp_path):
    with pytest.raises(ConversionError, match=r"are for \.pt files"):
        convert(str(source), tmp_path / "out", rope_theta=1e6)


def test_what_stands_there_is_kept(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        convert(str(source), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_interrupted_conversion_leaves_nothing(source, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "copy_tokenizer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("build", "changes", "message"),
    [
        (smolvlm, {"connector_bias": True}, "connector_type is 'pixel_shuffle' with a bias.*pixel_shuffle without"),
        (smolvlm, {"connector_type": "linear"}, "vision_feature_layer is -1, .* Choose vision_feature_layer 2"),
        (smolvlm, {"vision_feature_layer": -2}, "vision_feature_layer"),
        (llama, {"norm_type": "layer_norm"}, "norm_type is 'layer_norm'"),
        (llama, {"gated_mlp": False}, "gated_mlp is False"),
        (gpt2, {"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_what_has_no_native_counterpart_is_named(build, changes, message, tmp_path):
    saved(build, tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "ours")
    change_config(tmp_path / "ours", **changes)
    refused(tmp_path / "ours", tmp_path, message)


@pytest.mark.parametrize(("to", "message"), [("gguf", "choose native or one of"), ("smolvlm", "the source is a")])
def test_a_target_that_cannot_be(to, message, source, tmp_path):
    convert(str(source), tmp_path / "ours")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "ours"), tmp_path / "out", to=to)
    with pytest.raises(ConversionError, match="convert the foreign checkpoint to ours first"):
        convert(str(source), tmp_path / "out", to="native")
