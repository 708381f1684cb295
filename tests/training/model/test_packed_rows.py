"""An architecture that reads from one sample of a row into the next is refused, whatever computes its attention."""

import pytest
import torch
from helpers import build_model, build_processor

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from smol_hf.training.model.packed_rows import describe_attention, refuse_seeing_others
from smol_hf.training.model.text_composition import load_model
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}


def tiny(model_type, **sizes):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **sizes})).train()
    model.config._attn_implementation = "flash_attention_2"  # as after loading it on a GPU
    return model


def test_flash_attention_does_not_hide_a_memory():
    with pytest.raises(RecipeError, match="mamba does not keep them apart"):
        refuse_seeing_others(tiny("mamba", state_size=4), "sample_packing")


def test_the_probe_leaves_the_model_as_it_was():
    model = tiny("llama", num_key_value_heads=1)
    refuse_seeing_others(model, "sample_packing")
    assert model.training and model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize(
    "model_type, kernel, packs, expected",
    [
        ("smol_hf_text", "sdpa", True, "sdpa, for each packed sample separately"),
        ("smol_hf_text", "eager", True, "eager, with a mask over each packed row"),
        ("llama", "sdpa", True, "sdpa, with a mask over each packed row"),
        ("llama", "flash_attention_2", True, "flash_attention_2, for each packed sample separately"),
        ("llama", "sdpa", False, "sdpa"),
    ],
)
def test_the_summary_names_the_kernel(model_type, kernel, packs, expected):
    model = tiny(model_type, num_key_value_heads=1)
    model.config._attn_implementation = kernel
    said = describe_attention(model, packs, torch.device("cpu"), torch.float32)
    assert said.partition(":")[2].partition(":")[0].strip() == expected


def test_flex_attention_is_for_the_language_model(tmp_path):
    """An image encoder has no mask, so its blocks are all computed."""
    build_model(build_processor()).save_pretrained(tmp_path)
    keys = ModelArguments(model=str(tmp_path), attn_implementation="flex_attention")
    model = load_model(AutoModelForImageTextToText, keys, AutoConfig.from_pretrained(tmp_path), False)
    kernels = [part.config._attn_implementation for part in (model.language_model, model.vision_model)]
    assert kernels == ["flex_attention", "sdpa"]
