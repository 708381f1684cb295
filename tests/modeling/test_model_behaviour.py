"""What transformers expects of every model: embeddings that grow, tied weights, shards, devices, checkpointing."""

import copy
import json

import pytest
import torch
from modeling.behaving_models import CLOSE, MODELS, logits, text, vlm
from modeling.builders import (
    VOCAB_SIZE,
)
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

OURS = MODELS[:2]


def load(folder, model, **settings):
    loader = AutoModelForImageTextToText if hasattr(model, "vision_model") else AutoModelForCausalLM
    return loader.from_pretrained(folder, **settings).eval()


# -- embeddings and tied weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [VOCAB_SIZE + 7, VOCAB_SIZE - 2])
@pytest.mark.parametrize("build", MODELS)
def test_resized_embeddings(build, rows, tmp_path):
    model, inputs = build()
    expected = logits(model, inputs)
    common = min(rows, VOCAB_SIZE)
    inputs["input_ids"].clamp_(max=common - 1)
    expected = logits(model, inputs)
    model.resize_token_embeddings(rows, mean_resizing=False)
    assert model.config.get_text_config().vocab_size == rows
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight) == rows
    torch.testing.assert_close(logits(model, inputs)[..., :common], expected[..., :common], **CLOSE)
    if rows > VOCAB_SIZE:
        new = {**inputs, "input_ids": inputs["input_ids"].clone()}
        new["input_ids"][0, -2] = rows - 1
        model.train()(**new, labels=new["input_ids"]).loss.backward()
        assert model.get_input_embeddings().weight.grad[rows - 1].abs().max() > 0
        model.eval()
    model.save_pretrained(tmp_path)
    again = load(tmp_path, model)
    assert again.config.get_text_config().vocab_size == rows
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@pytest.mark.parametrize("build", OURS)
def test_embeddings_can_be_replaced(build):
    model, inputs = build()
    expected = logits(model, inputs)
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))
    model.set_output_embeddings(copy.deepcopy(model.get_output_embeddings()))
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    model.tie_weights()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert torch.equal(logits(model, inputs), expected)


def names_in(folder):
    names = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names += file.keys()
    return names


@pytest.mark.parametrize("build", OURS)
def test_tied_weights_are_one_tensor(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path)
    assert sum("lm_head" in name or "embed_tokens" in name for name in names_in(tmp_path)) == 1
    again = load(tmp_path, model)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    before = logits(again, inputs)
    assert torch.equal(before, logits(model, inputs))
    with torch.no_grad():
        again.get_input_embeddings().weight[70] += 1.0
    assert (logits(again, inputs) - before)[..., 70].abs().max() > 1e-3


@pytest.mark.parametrize("build", [text, lambda **changes: vlm(text_config=text(**changes)[0].config)])
def test_untied_weights_are_two_tensors(build, tmp_path):
    model, inputs = build(tie_word_embeddings=False)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert sum("lm_head" in name or "embed_tokens" in name for name in names_in(tmp_path)) == 2
    again = load(tmp_path, model)
    assert again.get_output_embeddings().weight is not again.get_input_embeddings().weight
    assert torch.equal(logits(again, inputs), logits(model, inputs))


# -- saving, loading, devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", MODELS)
def test_sharded_saves(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(names_in(tmp_path)) == sorted(index["weight_map"])
    assert torch.equal(logits(load(tmp_path, model), inputs), logits(model, inputs))
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"], "old shards must go"


@pytest.mark.parametrize("build", MODELS)
def test_device_maps(build, tmp_path):
    """Whole, and with a layer of the decoder on the disk, from which it comes for its turn."""
    model, inputs = build()
    model.save_pretrained(tmp_path)
    expected = logits(model, inputs)
    assert torch.equal(logits(load(tmp_path, model, device_map={"": "cpu"}), inputs), expected)
    assert torch.equal(logits(load(tmp_path, model, device_map="auto"), inputs), expected)
    layer = "language_model.model.layers.1" if "pixel_values" in inputs else "model.layers.1"
    holding = {name for name, module in model.named_modules() if not name or layer.startswith(f"{name}.")}
    parts = {
        f"{name}.{child}".lstrip(".") for name in holding for child, _ in model.get_submodule(name).named_children()
    }
    device_map = {part: "disk" if part == layer else "cpu" for part in parts - holding}
    away = load(tmp_path, model, device_map=device_map, offload_folder=tmp_path / "away")
    layer = away.get_submodule(layer)
    assert {weight.device.type for weight in layer.parameters()} == {"meta"}
    assert torch.equal(logits(away, inputs), expected)
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(away.generate(**inputs, **settings), model.generate(**inputs, **settings))


@pytest.mark.parametrize("build", OURS)
def test_what_must_stay_together_on_a_device(build):
    model, _ = build()
    classes = {type(module).__name__ for module in model.modules()}
    assert "SmolHFDecoderLayer" in model._no_split_modules
    assert set(model._no_split_modules) & classes, "the names must be those of modules"


@pytest.mark.parametrize("build", MODELS)
def test_a_copy_is_independent(build):
    model, inputs = build()
    twin = copy.deepcopy(model)
    expected = logits(model, inputs)
    assert torch.equal(logits(twin, inputs), expected)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(2)
    assert torch.equal(logits(model, inputs), expected)
    assert not torch.equal(logits(twin, inputs), expected)


@pytest.mark.parametrize("build", OURS)
def test_a_checkpoint_of_another_size_is_refused(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = VOCAB_SIZE + 8
    with pytest.raises(RuntimeError, match=r"mismatch|ignore_mismatched_sizes"):
        load(tmp_path, model, config=config)
    again = load(tmp_path, model, config=config, ignore_mismatched_sizes=True)
    assert logits(again, inputs).shape[-1] == VOCAB_SIZE + 8
    assert logits(again, inputs).isfinite().all()
