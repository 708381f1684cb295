"""In and out: the same logits, and back again the same tensors, bit for bit."""

import json

import pytest
import torch
from conversion.native_models import TEXT_MODELS, VISION_MODELS, inputs_for, logits_of, saved
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from smol_hf import SmolHFForCausalLM, SmolHFForConditionalGeneration
from smol_hf.conversion.convert import convert

ROUND_TRIPS = [*TEXT_MODELS, "smolvlm", "smolvlm-tied"]


def tensors_of(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def build(name):
    return (TEXT_MODELS | VISION_MODELS)[name]


def auto_class(name):
    return AutoModelForImageTextToText if name in VISION_MODELS else AutoModelForCausalLM


@pytest.mark.parametrize("name", [*TEXT_MODELS, *VISION_MODELS])
def test_ours_computes_what_the_source_computes(name, tmp_path):
    native = saved(build(name), tmp_path / "source")
    facts = convert(str(tmp_path / "source"), tmp_path / "ours")
    ours = auto_class(name).from_pretrained(tmp_path / "ours")
    assert isinstance(ours, SmolHFForConditionalGeneration if name in VISION_MODELS else SmolHFForCausalLM)
    inputs = inputs_for(native)
    expected = logits_of(native, inputs)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(logits_of(ours, inputs), expected, rtol=0, atol=1e-5)
    assert facts["source"] == native.config.model_type and facts["target"] == ours.config.model_type
    assert facts["parameters"]["total"] == sum(weight.numel() for weight in ours.parameters())


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_in_and_out_gives_the_same_tensors(name, tmp_path):
    native = saved(build(name), tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "ours")
    facts = convert(str(tmp_path / "ours"), tmp_path / "back")
    assert facts["target"] == native.config.model_type
    source, back = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "back")
    if name == "smolvlm-tied":  # the head is written out, since not every engine reads a tied one
        assert torch.equal(back.pop("lm_head.weight"), source["model.text_model.embed_tokens.weight"])
    assert source.keys() == back.keys()
    assert all(torch.equal(source[key], back[key]) and source[key].dtype == back[key].dtype for key in source)
    again = auto_class(name).from_pretrained(tmp_path / "back")
    assert type(again) is type(native)
    inputs = inputs_for(native)
    assert torch.equal(logits_of(again, inputs), logits_of(native, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "smolvlm"])
def test_half_precision_stays_what_it_is(name, dtype, tmp_path):
    build(name)().to(dtype).save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "ours")
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "ours").values()} == {dtype}
    assert json.loads((tmp_path / "ours/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    convert(str(tmp_path / "ours"), tmp_path / "back")
    source, back = tensors_of(tmp_path / "source"), tensors_of(tmp_path / "back")
    assert source.keys() == back.keys() and all(torch.equal(source[key], back[key]) for key in source)


def test_shards_are_read(tmp_path):
    native = build("llama-untied")()
    native.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    convert(str(tmp_path / "source"), tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    inputs = inputs_for(native)
    torch.testing.assert_close(logits_of(ours, inputs), logits_of(native, inputs), rtol=0, atol=1e-5)
