"""Recipes and adapters that are refused."""

import json
import shutil

import pytest
import torch
from adapter_runs import adapter_words
from safetensors.torch import load_file, save_file

from smol_hf import train
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.merge import merge
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_parts": "[text, visoin]"}, "choose from vision, connector, text"),
        ({"lora_parts": "[]"}, "choose from vision, connector, text"),
        ({"lora_target_modules": "[q_porj]"}, "no linear layer 'q_porj' in text: did you mean 'q_proj'"),
        ({"lora_target_modules": "[lm_head]"}, "no linear layer 'lm_head'"),
        ({"lora_parts": "[text, connector]", "lora_target_modules": "[q_proj]"}, "q_proj are no layers of connector"),
        ({"lora_parts": "[vision]", "lora_trainable_tokens": '["a"]'}, "add text to lora_parts"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit and load_in_8bit exclude each other"),
        ({"use_bnb_nested_quant": True}, "no effect without load_in_4bit"),
        ({"model": "./nowhere"}, "there is no checkpoint ./nowhere"),
        ({"lora_r": 0}, "lora_r is 0"),
        ({"lora_dropout": 1}, "lora_dropout is 1"),
        ({"bnb_4bit_quant_type": "nf3"}, "choose nf4 or fp4"),
        ({"lora_trainable_tokens": '["<nowhere>"]'}, "the tokenizer has no '<nowhere>'"),
        ({"text_learning_rate": 0, "connector_learning_rate": 1e-3}, "text_learning_rate 0 freezes them"),
        ({"unfreeze_vision_at_step": 3}, "the encoder has no adapters"),
        ({"optim": "muon"}, "optim muon is not supported with adapters"),
        ({"use_peft": "false"}, "lora_r has no effect without use_peft"),
    ],
)
def test_a_recipe_that_cannot_mean_it_is_refused(keys, message, base, tmp_path, capsys):
    assert train.main(adapter_words(base, tmp_path / "run", **keys)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_adapters_need_a_checkpoint(tmp_path):
    with pytest.raises(RecipeError, match="use_peft needs model"):
        load_arguments(["--use_peft", "true", "--output_dir", str(tmp_path)])


def damaged(adapter, folder, change):
    shutil.copytree(adapter, folder)
    weights = folder / "adapter_model.safetensors"
    change(folder, weights, load_file(weights))
    return folder


def without_a_tensor(folder, weights, tensors):
    tensors.pop(min(tensors))
    save_file(tensors, weights)


def with_a_wrong_shape(folder, weights, tensors):
    name = min(tensors)
    save_file({**tensors, name: tensors[name][:1].clone()}, weights)


def with_an_unknown_tensor(folder, weights, tensors):
    save_file({**tensors, "base_model.model.else.lora_A.weight": torch.zeros(2, 2)}, weights)


def with_nan(folder, weights, tensors):
    name = min(tensors)
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, weights)


def of_integers(folder, weights, tensors):
    name = min(tensors)
    save_file({**tensors, name: tensors[name].to(torch.int8)}, weights)


def cut_off(folder, weights, tensors):
    weights.write_bytes(weights.read_bytes()[:500])


def pickled(folder, weights, tensors):
    weights.unlink()
    torch.save(tensors, folder / "adapter_model.bin")


def of_another_kind(folder, weights, tensors):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "PREFIX_TUNING"}))


def without_base(folder, weights, tensors):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "./gone"}))


def for_other_layers(folder, weights, tensors):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["nowhere"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_tensor, "1 tensor is missing, first"),
        (with_a_wrong_shape, "1 tensor has another shape, first"),
        (with_an_unknown_tensor, "1 tensor is unknown, first"),
        (with_nan, "contains NaN or infinity"),
        (of_integers, "has dtype torch.int8, but must be floating point"),
        (cut_off, "damaged or cut off"),
        (pickled, "adapter_model.safetensors is missing"),
        (of_another_kind, "only LoRA and DoRA"),
        (without_base, "folder or Hub id with --base"),
        (for_other_layers, "does not fit the model"),
    ],
)
def test_a_damaged_adapter_is_refused_and_nothing_is_written(change, message, trained, tmp_path):
    folder = damaged(trained("lora on the text") / "adapter", tmp_path / "adapter", change)
    with pytest.raises(ConversionError, match=message):
        merge(str(folder), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_where_a_checkpoint_is_wanted_an_adapter_is_called_one(trained, tmp_path):
    with pytest.raises(ConversionError, match="is an adapter: merge it"):
        convert(str(trained("lora on the text") / "adapter"), tmp_path / "out")
