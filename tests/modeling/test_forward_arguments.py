"""A keyword that nothing reads is an error, the cache has two names, and what is kept is what was asked for."""

import inspect

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from modeling.builders import build_decoder, build_vlm, image_prompt, one_row, random_text, random_tiles, vlm_config
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from smol_hf import SmolHFModel
from smol_hf.modeling.decoder import RMSNorm

DECODERS = ["rotary", "llama"]  # ours, and one of transformers


def ids_and_image(config):
    return {"input_ids": one_row(image_prompt(config)), "pixel_values": random_tiles(1)}


def causal_lm():
    return build_decoder(), {"input_ids": one_row(random_text(9))}


def conditional(decoder):
    model = build_vlm(decoder=decoder)
    return model, ids_and_image(model.config)


def text_model():
    model, inputs = causal_lm()
    return model.model, inputs


def base_model(decoder):
    config = vlm_config(decoder=decoder)
    return SmolHFModel(config).eval(), ids_and_image(config)


ENTRY_POINTS = [
    pytest.param(text_model, id="SmolHFTextModel"),
    pytest.param(causal_lm, id="SmolHFForCausalLM"),
    *(pytest.param(lambda name=name: base_model(name), id=f"SmolHFModel-{name}") for name in DECODERS),
    *(pytest.param(lambda name=name: conditional(name), id=f"ConditionalGeneration-{name}") for name in DECODERS),
]
GENERATING = [case for case in ENTRY_POINTS if "Model" not in case.id]


@pytest.mark.parametrize("value", [None, 1])
@pytest.mark.parametrize("build", ENTRY_POINTS)
@torch.no_grad()
def test_an_unknown_keyword_is_an_error(build, value):
    model, inputs = build()
    with pytest.raises(TypeError, match="unexpected keyword argument 'key_value_store'"):
        model(**inputs, key_value_store=value)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_an_unknown_keyword_for_image_features_is_an_error(decoder):
    model, inputs = conditional(decoder)
    with pytest.raises(TypeError, match="unexpected keyword argument 'pixel_mask'"):
        model.get_image_features(inputs["pixel_values"], pixel_mask=None)


@pytest.mark.parametrize("build", GENERATING)
@torch.no_grad()
def test_an_unknown_keyword_while_generating_is_an_error(build):
    model, inputs = build()
    with pytest.raises(ValueError, match=r"not used by the model: .'key_value_store'"):
        model.generate(**inputs, key_value_store=1, max_new_tokens=1)


@pytest.mark.parametrize("build", ENTRY_POINTS)
@torch.no_grad()
def test_the_cache_has_two_names(build):
    model, inputs = build()
    following = {"input_ids": one_row(random_text(2, seed=5))}
    results = []
    for name in ("cache", "past_key_values"):
        output = model(**inputs, use_cache=True)
        assert output.cache is output.past_key_values is output["cache"] is output["past_key_values"]
        length = output.cache.get_seq_length()
        assert length == inputs["input_ids"].shape[1]
        again = model(**following, use_cache=True, **{name: output.cache})
        assert again.cache is output.cache and again.cache.get_seq_length() == length + 2
        results.append(again[0])
    assert torch.equal(*results)
    without = model(**following)[0]
    assert (results[0] - without).abs().max() > 1e-3, "the cache must matter for this test to mean something"
    with pytest.raises(ValueError, match="cache and past_key_values are two names of one argument"):
        model(**following, cache=output.cache, past_key_values=output.cache)


# -- hidden states and attention weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("build", ENTRY_POINTS)
@torch.no_grad()
def test_states_and_weights_are_kept_only_when_asked_for(build):
    model, inputs = build()
    model.set_attn_implementation("eager")
    length = inputs["input_ids"].shape[1]
    output = model(**inputs)
    assert output.hidden_states is None and output.attentions is None
    asked = model(**inputs, output_hidden_states=True, output_attentions=True)
    model.config.output_hidden_states = model.config.output_attentions = True
    for output in (asked, model(**inputs)):
        assert [state.shape for state in output.hidden_states] == [(1, length, 32)] * 3
        assert [weights.shape for weights in output.attentions] == [(1, 4, length, length)] * 2
    output = model(**inputs, output_hidden_states=False, output_attentions=False)
    assert output.hidden_states is None and output.attentions is None


@pytest.mark.parametrize("build", GENERATING)
@torch.no_grad()
def test_from_pretrained_sets_what_is_kept(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path)
    loader = AutoModelForImageTextToText if "pixel_values" in inputs else AutoModelForCausalLM
    keeping = loader.from_pretrained(tmp_path, output_hidden_states=True)
    output = keeping(**inputs)
    assert len(output.hidden_states) == 3 and output.attentions is None
    keeping = loader.from_pretrained(tmp_path, output_attentions=True)  # transformers then chooses eager attention
    output = keeping(**inputs)
    assert len(output.attentions) == 2 and output.hidden_states is None


@pytest.mark.parametrize("build", ENTRY_POINTS)
@torch.no_grad()
def test_a_kernel_without_attention_weights_is_named(build):
    model, inputs = build()
    model.set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=r"kernel 'sdpa' returns no attention weights: call set_attn_implementation\('eager'\)"
    ):
        model(**inputs, output_attentions=True)
    with pytest.raises(ValueError, match="sdpa"):
        model.config.output_attentions = True


# -- gradient checkpointing and the cache -----------------------------------------------------------------------------


@pytest.mark.parametrize("build", [case for case in GENERATING if "llama" not in case.id])
def test_gradient_checkpointing_and_the_cache(build):
    """A recomputed layer would write its keys into a cache a second time. Without gradients none is recomputed."""
    model, inputs = build()
    with torch.no_grad():
        filled = model(**inputs, use_cache=True).cache
        expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    model.train().gradient_checkpointing_enable()
    assert model(**inputs, use_cache=True).cache is None
    with pytest.raises(ValueError, match="gradient checkpointing cannot continue from a cache"):
        model(input_ids=inputs["input_ids"][:, -1:], cache=filled)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)


@pytest.mark.parametrize("build", [build_decoder, build_vlm])
def test_a_wrapped_forward_has_the_arguments_of_the_forward(build):
    """Programs that export read them, such as torch.export."""
    model = build().eval()
    arguments = list(inspect.signature(model.forward).parameters)
    assert arguments[0] == "input_ids" and list(inspect.signature(type(model).forward).parameters)[1:] == arguments
    add_hook_to_module(model, ModelHook())
    assert list(inspect.signature(model.forward).parameters) == arguments
    model.forward = torch.no_grad()(model.forward)
    assert list(inspect.signature(model.forward).parameters) == arguments


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_has_the_type_of_llamas_and_is_more_exact(weights, states):
    norms = RMSNorm(64, eps=1e-5), LlamaRMSNorm(64, eps=1e-5)
    torch.manual_seed(0)
    weight, hidden = torch.rand(64) + 0.5, (torch.randn(32, 64) * 3000).to(states)  # squares overflow float16
    for norm in norms:
        norm.weight.data = weight.to(weights)
    exact = (
        hidden.double() / (hidden.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * norms[0].weight.double()
    )
    ours, theirs = (norm(hidden) for norm in norms)
    assert ours.dtype == theirs.dtype
    assert (ours - exact).abs().max() <= (theirs - exact).abs().max()
