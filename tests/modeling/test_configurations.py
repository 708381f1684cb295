"""Configurations that are refused, initial weights, and checkpoints in several files."""

import pytest
import torch
from modeling.builders import (
    ENCODERS,
    IMAGE_TOKEN_ID,
    KEEP_CLASS_TOKEN,
    SIDE,
    VOCAB_SIZE,
    build_decoder,
    build_vlm,
    image_prompt,
    one_row,
    random_tiles,
    text_config,
    vlm_config,
)
from transformers import AutoModelForImageTextToText

from smol_hf import SmolHFForCausalLM, SmolHFForConditionalGeneration


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: vlm_config(scale_factor=4), r"scale_factor 4 does not divide the 6 patches.*\[1, 2, 3, 6\]"),
        (lambda: vlm_config(scale_factor=0), r"scale_factor 0 does not divide .*\[1, 2, 3, 6\]"),
        (lambda: vlm_config(connector_type="perceiver"), "'perceiver': choose one of pixel_shuffle, linear, mlp"),
        (lambda: vlm_config(vision_feature_select_strategy="cls"), "'cls': choose one of default, full"),
        (lambda: vlm_config("clip", **KEEP_CLASS_TOKEN), "keeps a class token, which pixel_shuffle cannot fold"),
        (
            lambda: vlm_config(vision_config={**ENCODERS["siglip"], "image_size": 3}),
            "image_size 3 is smaller than patch_size 4",
        ),
        (lambda: vlm_config(text_config={"model_type": "gpt7"}), "does not know the model_type 'gpt7'"),
        (lambda: text_config(num_key_value_heads=3), r"num_key_value_heads 3 does not divide .* \[1, 2, 4\]"),
        (lambda: text_config(norm_type="group"), "'group': choose one of rms_norm, layer_norm"),
        (lambda: text_config(position_embedding_type="alibi"), "'alibi': choose one of rotary, learned"),
        (lambda: text_config(head_dim=7), "head_dim 7 is odd"),
        (lambda: text_config(no_rope_layers=[1]), "no_rope_layers has 1 entries for 2 layers"),
        (lambda: text_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "'yarn' is not supported"),
        (lambda: text_config(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "'llama3' is not supported"),
        (lambda: text_config(hidden_size=33, head_dim=None), "hidden_size 33 .* num_attention_heads 4"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_with_what_would_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "text",
    [
        {"model_type": "mamba", "vocab_size": VOCAB_SIZE, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 1},
        {"model_type": "bloom", "vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 1, "n_head": 4},
    ],
    ids=lambda text: text["model_type"],
)
def test_a_language_model_without_positions_or_cache_is_refused(text):
    """Mamba's state is no cache of transformers' kind; BLOOM takes no `position_ids`, so packed samples would leak."""
    with pytest.raises(ValueError, match=f"^{text['model_type']} .*no position_ids"):
        SmolHFForConditionalGeneration(vlm_config(text_config=text))


def test_all_spellings_of_the_rotation():
    default = {"rope_type": "default", "rope_theta": 10000.0}
    assert text_config().rope_parameters == default
    assert text_config(rope_scaling=None, rope_parameters=None).rope_parameters == default
    assert text_config(rope_theta=5e4).rope_parameters == {**default, "rope_theta": 5e4}
    assert text_config(rope_parameters={"rope_theta": 5e4}).rope_parameters == {**default, "rope_theta": 5e4}
    assert text_config(rope_parameters={"rope_type": "default"}).rope_parameters == default


def test_initial_weights():
    """Normal with the configured deviation, smaller where a projection writes into the residual stream."""
    model = SmolHFForCausalLM(text_config(hidden_size=128, num_hidden_layers=8, num_attention_heads=4))
    layer = model.model.layers[3]
    for weight in (model.model.embed_tokens.weight, layer.self_attn.q_proj.weight, layer.mlp.up_proj.weight):
        assert abs(weight.std() / 0.02 - 1) < 0.1
    for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
        assert abs(weight.std() / (0.02 / 16**0.5) - 1) < 0.1
    assert (model.model.norm.weight == 1).all()
    gpt = SmolHFForCausalLM(text_config("gpt"))
    assert all((weight == 0).all() for name, weight in gpt.named_parameters() if name.endswith("bias"))


def test_what_a_checkpoint_lacks_starts_like_new(tmp_path):
    """A connector to be trained between two trained parts, which stay as they are."""
    model = build_vlm()
    kept = {name: weight for name, weight in model.state_dict().items() if not name.startswith("connector.")}
    model.save_pretrained(tmp_path, state_dict=kept)
    again, report = SmolHFForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"connector.proj.weight"}
    assert 0.01 < again.connector.proj.weight.std() < 0.03
    loaded = again.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in kept.items())


@torch.no_grad()
def test_a_checkpoint_in_several_files(tmp_path):
    model = build_vlm()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    inputs = {"input_ids": one_row(image_prompt(model.config)), "pixel_values": random_tiles(1)}
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_written(tmp_path):
    model = build_decoder()
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"1 weight holds NaN or infinity, first model\.norm\.weight"):
        model.save_pretrained(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_the_number_of_tokens_of_a_tile():
    assert vlm_config(scale_factor=3).image_seq_len == (SIDE // 3) ** 2
    assert vlm_config("clip", connector_type="mlp").image_seq_len == SIDE**2
    assert vlm_config("clip", connector_type="mlp", **KEEP_CLASS_TOKEN).image_seq_len == SIDE**2 + 1
    assert vlm_config("siglip", connector_type="mlp", **KEEP_CLASS_TOKEN).image_seq_len == SIDE**2
    assert vlm_config("siglip2").image_side == 4 * SIDE and vlm_config().image_token_id == IMAGE_TOKEN_ID
