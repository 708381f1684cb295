"""An architecture that reads from one sample of a row into the next is refused, whatever computes its attention."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from smol_hf.training.model.packed_rows import refuse_seeing_others
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
