"""Presets: as large as transformers' own models of the same configuration, and every name maps at full size."""

import pytest
import torch
from helpers import model_of_preset
from transformers import LlavaConfig, LlavaForConditionalGeneration, SmolVLMForConditionalGeneration

from smol_hf.conversion.formats import registry as formats
from smol_hf.conversion.formats.llama import write_llama
from smol_hf.conversion.meta_check import compare_with
from smol_hf.training.model.composition import build_config_and_processor
from smol_hf.training.model.presets import PRESETS, TEXT, VISION, preset_config
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

PUBLISHED = {
    "smollm-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "gpt-93m": 92_837_376,
    "smolvlm2-256m": 256_484_928,
    "smolvlm2-500m": 507_482_304,
    "nanovlm-222m": 222_081_600,
}


def on_meta(model_class, config):
    with torch.device("meta"):
        return model_class._from_config(config)


def count(model):
    return sum(weight.numel() for weight in model.parameters())


def native_model(name):
    """transformers' own model of the preset's configuration, on the meta device."""
    config = preset_config(name)
    if name.startswith("llava"):
        text = write_llama(config.text_config)
        return on_meta(
            LlavaForConditionalGeneration,
            LlavaConfig(
                vision_config=config.vision_config, text_config=text, vision_feature_layer=-2,
                tie_word_embeddings=True,
            ),
        )  # fmt: skip
    target = formats.native_format(config, "native")
    native = target.write_config(config)
    if target is formats.SMOLVLM:  # the exported head is never tied, nanoVLM's is
        native.tie_word_embeddings = native.text_config.tie_word_embeddings = config.text_config.tie_word_embeddings
    return on_meta(target.native_class, native)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "gpt-93m"])
def test_as_many_parameters_as_transformers_own_model(name):
    ours = model_of_preset(name)
    assert count(ours) == count(native_model(name))
    assert all(weight.is_meta for weight in ours.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name):
    assert count(model_of_preset(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_maps_there_and_back_at_full_size(name):
    """Key lists and shapes match completely: nothing missing, nothing unused."""
    ours = model_of_preset(name)
    tensors = {key: value for key, value in ours.state_dict().items() if key not in ours.all_tied_weights_keys}
    if name.startswith("llava"):
        native = native_model(name)
        native_tensors = {k: v for k, v in native.state_dict().items() if k not in native.all_tied_weights_keys}
        compare_with(ours, formats.LLAVA.to_ours(native_tensors, ours.config))
        return
    target = formats.native_format(ours.config, "native")
    native = on_meta(target.native_class, target.write_config(ours.config))
    theirs = target.to_theirs(tensors, ours.config)
    compare_with(native, theirs)
    if name != "gpt-93m":  # GPT-2's class gives it biases of zero
        compare_with(ours, target.to_ours(theirs, ours.config))
    assert isinstance(native, SmolVLMForConditionalGeneration) == (name in VISION)


def test_a_preset_has_weights_and_answers():
    for name in ("tiny-text", "tiny-vlm"):
        model = model_of_preset(name, "cpu").eval()
        again = model_of_preset(name, "cpu")
        assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters()))
        assert model.generate(torch.tensor([[7, 8, 9]]), max_new_tokens=3).shape == (1, 6)


def test_a_misspelt_preset_names_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown preset 'smolm2-135m'.*did you mean 'smollm2-135m'"):
        preset_config("smolm2-135m")
    assert set(PRESETS) == set(TEXT) | set(VISION)


SIGLIP = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "image_size": 512, "patch_size": 16}  # fmt: skip
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
          "image_size": 384, "patch_size": 14}  # fmt: skip
# From the config.json of HuggingFaceTB/SmolVLM2-*-Instruct and lusxvr/nanoVLM-450M: scale factor, longest edge, id of
# the image token, language model, image encoder.
PUBLISHED_CONFIGS = {
    "smolvlm2-256m": (4, 2048, 49190, (576, 1536, 30, 9, 3, 49280, 8192, 100000.0), SIGLIP),
    "smolvlm2-500m": (4, 2048, 49190, (960, 2560, 32, 15, 5, 49280, 8192, 100000.0), SIGLIP),
    "smolvlm2-2.2b": (3, 1536, 49190, (2048, 8192, 24, 32, 32, 49280, 8192, 273768.0), SO400M),
    "nanovlm-450m": (4, 2048, 49152, (960, 2560, 32, 15, 5, 49218, 8192, 100000.0), SIGLIP),
}
TEXT_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "vocab_size", "max_position_embeddings")  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_what_training_builds_of_a_preset_is_the_published_configuration(name):
    scale_factor, longest_edge, image_token_id, text, vision = PUBLISHED_CONFIGS[name]
    config, processor = build_config_and_processor(ModelArguments(preset=name), ())
    assert processor.longest_edge == longest_edge and processor.do_image_splitting
    assert processor.image_seq_len == (vision["image_size"] // vision["patch_size"] // scale_factor) ** 2
    native = formats.SMOLVLM.write_config(config)
    assert native.scale_factor == scale_factor
    assert [getattr(native.text_config, key) for key in TEXT_SIZES] == list(text[:-1])
    assert native.text_config.rope_parameters["rope_theta"] == text[-1]
    assert {key: getattr(native.vision_config, key) for key in vision} == vision
    assert preset_config(name).image_token_id == image_token_id


def test_a_recipe_may_still_choose_its_own_scale_factor_and_tiling():
    config, processor = build_config_and_processor(
        ModelArguments(preset="smolvlm2-256m", scale_factor=2, longest_edge=512), ()
    )
    assert (config.scale_factor, processor.longest_edge, processor.image_seq_len) == (2, 512, 256)
    config, _ = build_config_and_processor(ModelArguments(), ())
    assert config.scale_factor == 2
