"""Any encoder, any connector, any language model: each combination learns, answers and comes back from disk."""

from collections import Counter

import pytest
import torch
from modeling.builders import (
    BACKBONES,
    ENCODERS,
    IMAGE_TOKEN_ID,
    SIDE,
    VOCAB_SIZE,
    build_decoder,
    build_vlm,
    gradients,
    image_prompt,
    largest_difference,
    one_row,
    random_text,
    random_tiles,
    text_config,
    vlm_config,
)
from transformers import AutoModelForImageTextToText
from transformers.modeling_layers import GradientCheckpointingLayer

from smol_hf import SmolHFForCausalLM, SmolHFForConditionalGeneration
from smol_hf.modeling.connector import pixel_shuffle
from smol_hf.modeling.vision import normalize_tiles

KEEP_CLASS_TOKEN = {"vision_feature_select_strategy": "full"}


def combinations():
    for encoder in ENCODERS:
        for connector in ("pixel_shuffle", "linear", "mlp"):
            for decoder in ("rotary", "gpt2"):
                yield encoder, decoder, {"connector_type": connector}
    for encoder in ("clip", "dinov2"):
        yield encoder, "rotary", dict(connector_type="mlp", **KEEP_CLASS_TOKEN)
    yield "siglip", "gpt", {}
    yield "siglip", "nope", {}
    yield "siglip", "llama", {}
    yield "siglip2", "qwen3", {}
    yield "clip", "gemma2", {"connector_type": "mlp"}
    yield "dinov2", "opt", {"connector_type": "linear"}


def name_of(value):
    return "-".join(map(str, value.values())) or "default" if isinstance(value, dict) else value


def training_inputs(config, seed=0):
    ids = image_prompt(config, images=2, seed=seed) + random_text(5, seed + 9)
    labels = [-100] * (len(ids) - 4) + ids[-4:]
    return {
        "input_ids": one_row(ids),
        "pixel_values": random_tiles(2, seed=seed),
        "labels": one_row(labels),
        "use_cache": False,
    }


def described(config):
    """The configuration without what only says where it came from."""
    description = config.to_dict()
    for part in (description, description["text_config"], description["vision_config"]):
        for name in ("_name_or_path", "transformers_version", "dtype", "architectures"):
            part.pop(name, None)
    return description


@pytest.mark.parametrize("encoder, decoder, changes", combinations(), ids=name_of)
def test_each_combination_learns_answers_and_comes_back(encoder, decoder, changes, tmp_path):
    model = build_vlm(encoder, decoder, **changes)
    inputs = training_inputs(model.config)

    model.train()
    loss = model(**inputs).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, weight in model.named_parameters():
        unused = "pooler" in name or "mask_token" in name or ("post_layernorm" in name and encoder == "clip")
        assert unused or (weight.grad is not None and weight.grad.abs().sum() > 0), f"nothing reaches {name}"

    model.eval()
    del inputs["labels"], inputs["use_cache"]
    with torch.no_grad():
        logits = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": 255 - inputs["pixel_values"]}).logits
    assert logits.shape == (*inputs["input_ids"].shape, VOCAB_SIZE)
    assert (logits - other).abs().max() > 1e-3, "the picture must matter"
    settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": -1}
    answer = model.generate(**inputs, **settings)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3

    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is SmolHFForConditionalGeneration
    assert described(again.config) == described(model.config)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, logits)
    assert torch.equal(again.generate(**inputs, **settings), answer)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == model.config.text_config.tie_word_embeddings


@pytest.mark.parametrize(
    "encoder, decoder", [("siglip", "rotary"), ("clip", "gpt2"), ("dinov2", "gpt"), ("siglip2", "llama")]
)
def test_gradient_checkpointing_changes_no_gradient(encoder, decoder):
    model = build_vlm(encoder, decoder).train()
    inputs = training_inputs(model.config)
    model(**inputs).loss.backward()
    expected = gradients(model)
    model.zero_grad()

    model.gradient_checkpointing_enable()
    runs = Counter()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        first_norm = next(module for module in layer.modules() if "Norm" in type(module).__name__)
        first_norm.register_forward_hook(lambda norm, *_: runs.update([norm]))
    model(**inputs).loss.backward()
    assert len(runs) == len(layers) == 4
    assert set(runs.values()) == {2}, "each layer must run again in the backward pass"
    assert largest_difference(gradients(model), expected) < 1e-6


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_bytes_equal_normalised_floats(encoder):
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    model = build_vlm(encoder, image_mean=mean, image_std=std)
    ids = one_row(image_prompt(model.config, images=2))
    tiles = random_tiles(2)
    floats = (tiles.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = model(input_ids=ids, pixel_values=floats.float()).logits
    actual = model(input_ids=ids, pixel_values=tiles).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert normalize_tiles(tiles, model.config, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("statistics", [([0.5] * 3, [0.5] * 3), ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])])
@torch.no_grad()
def test_bytes_that_were_cast_are_refused(statistics):
    mean, std = statistics
    model = build_vlm(image_mean=mean, image_std=std)
    ids, tiles = one_row(image_prompt(model.config, images=2)), random_tiles(2)
    for cast in (tiles.float(), tiles.bfloat16(), tiles.float().unsqueeze(0), -tiles.float()):
        with pytest.raises(ValueError, match=r"floats from .* to .*, but normalised images are between"):
            model(input_ids=ids, pixel_values=cast)
    for cast in (tiles.long(), tiles.int()):
        with pytest.raises(ValueError, match=f"pixel_values have the type {cast.dtype}: give uint8"):
            model(input_ids=ids, pixel_values=cast)
    with pytest.raises(ValueError, match="normalised images are between"):
        model.generate(input_ids=ids, pixel_values=tiles.float(), max_new_tokens=2)
    extremes = (torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 24, 24) - mean[0]) / std[0]
    assert model(input_ids=ids, pixel_values=extremes * 1.5).logits.isfinite().all()


@torch.no_grad()
def test_flat_tiles_equal_padded_tiles():
    model = build_vlm()
    ids = torch.tensor([image_prompt(model.config, 2), image_prompt(model.config, 2, seed=5)])
    tiles = random_tiles(4)
    flat = model(input_ids=ids, pixel_values=tiles).logits
    padded = torch.zeros(2, 3, *tiles.shape[1:], dtype=torch.uint8)
    padded[:, [0, 2]] = tiles.view(2, 2, *tiles.shape[1:])  # the padding tile may stand anywhere
    mask = torch.tensor([[True, False, True]]).expand(2, -1)
    for shape in ((2, 3, 1, 1), (2, 3, 24, 24)):
        pixel_mask = mask[:, :, None, None].expand(shape)
        logits = model(input_ids=ids, pixel_values=padded, pixel_attention_mask=pixel_mask).logits
        assert torch.equal(logits, flat)


def test_pixel_shuffle_folds_squares_of_patches():
    # 4 × 4 patches whose one channel is their number, in reading order.
    folded = pixel_shuffle(torch.arange(16.0).view(1, 16, 1), 2)
    assert folded[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("decoder", ["rotary", "gpt", "gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tie_survives_a_new_vocabulary_size_and_the_disk(decoder, tied, tmp_path):
    text = dict(BACKBONES[decoder]) if decoder in BACKBONES else text_config(decoder).to_dict()
    model = SmolHFForConditionalGeneration(vlm_config(text_config={**text, "tie_word_embeddings": tied})).eval()
    ids = one_row(image_prompt(model.config))
    inputs = {"input_ids": ids, "pixel_values": random_tiles(1)}

    def is_tied(model):
        return model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()

    assert is_tied(model) is tied
    before = model(**inputs).logits
    model.resize_token_embeddings(VOCAB_SIZE + 8)
    assert is_tied(model) is tied
    assert model.config.text_config.vocab_size == VOCAB_SIZE + 8
    assert model.get_output_embeddings().weight.shape[0] == VOCAB_SIZE + 8
    after = model(**inputs).logits
    torch.testing.assert_close(after[..., :VOCAB_SIZE], before, rtol=0, atol=1e-6)

    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert is_tied(again) is tied
    assert torch.equal(again(**inputs).logits, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    model = build_vlm().to(dtype)
    inputs = {"input_ids": one_row(image_prompt(model.config)), "pixel_values": random_tiles(1)}
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    assert {weight.dtype for weight in again.parameters()} == {dtype}
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_image_tokens_and_features_must_match_in_number():
    model = build_vlm()
    ids = one_row(image_prompt(model.config, images=2))
    with pytest.raises(ValueError, match=r"18 image tokens but 9 image features \(1 tiles of 9\)"):
        model(input_ids=ids, pixel_values=random_tiles(1))
    with pytest.raises(ValueError, match=r"18 image tokens but 27 image features \(3 tiles of 9\)"):
        model(input_ids=ids, pixel_values=random_tiles(3))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(pixel_values=random_tiles(2))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids), pixel_values=random_tiles(2))


@torch.no_grad()
def test_images_replace_the_image_tokens_of_embeddings():
    model = build_vlm()
    ids, tiles = one_row(image_prompt(model.config, images=2)), random_tiles(2)
    embeddings = model.get_input_embeddings()(ids)
    expected = model(input_ids=ids, pixel_values=tiles).logits
    assert torch.equal(model(inputs_embeds=embeddings, pixel_values=tiles).logits, expected)
    with pytest.raises(ValueError, match=r"18 image tokens but 9 image features"):
        model(inputs_embeds=embeddings, pixel_values=random_tiles(1))


@torch.no_grad()
def test_image_tokens_without_any_image_are_refused():
    model = build_vlm()
    ids = one_row(image_prompt(model.config))
    with pytest.raises(ValueError, match="9 image tokens but no pixel_values"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="9 image tokens but no pixel_values"):
        model.generate(input_ids=ids, max_new_tokens=2)
    cache = model(input_ids=ids, pixel_values=random_tiles(1), use_cache=True).past_key_values
    # A token proposed while decoding may be the image token: the images of the prompt are in the cache then.
    model(input_ids=ids[:, :1] * 0 + model.config.image_token_id, past_key_values=cache)


@torch.no_grad()
def test_pixels_beyond_the_last_whole_patch_are_not_seen():
    """As SmolVLM2-2.2B, whose tiles of 384 pixels hold 27 patches of 14, and 6 pixels more."""
    model = build_vlm(vision_config={**ENCODERS["siglip"], "image_size": 4 * 6 + 3})
    assert model.config.patches_per_side == 6 and model.config.image_seq_len == 9
    tiles = random_tiles(1, side=4 * 6 + 3)
    inputs = {"input_ids": one_row(image_prompt(model.config))}
    expected = model(**inputs, pixel_values=tiles).logits
    tiles[:, :, 24:], tiles[:, :, :, 24:] = 0, 0
    assert torch.equal(model(**inputs, pixel_values=tiles).logits, expected)


def text_only():
    ids = one_row(random_text(8))
    return {"input_ids": ids, "labels": ids, "use_cache": False}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_step_without_images_touches_the_vision_path(encoder):
    """Other processes may have images in that step, and would wait for this one's gradients forever."""
    model = build_vlm(encoder).train()
    model(**training_inputs(model.config)).loss.backward()
    with_images = gradients(model)
    model.zero_grad()
    loss = model(**text_only()).loss
    loss.backward()
    without_images = gradients(model)
    assert without_images.keys() == with_images.keys()
    for name, gradient in without_images.items():
        if name.startswith(("vision_model.", "connector.")):
            assert (gradient == 0).all(), name
    with torch.no_grad():
        seen = model.eval()(**text_only(), logits_to_keep=torch.arange(7)).loss
        assert torch.equal(loss, seen), "the blank tile must not change the loss"


def test_a_step_without_images_leaves_a_frozen_vision_path_alone():
    model = build_vlm().train()
    calls = []
    model.vision_model.register_forward_hook(lambda *_: calls.append(1))

    model.vision_model.requires_grad_(False)
    model(**text_only()).loss.backward()
    assert len(calls) == 1, "the connector still learns"
    assert gradients(model.connector) and not gradients(model.vision_model)

    model.connector.requires_grad_(False)
    model.zero_grad()
    model(**text_only()).loss.backward()
    assert len(calls) == 1 and not gradients(model.connector)


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
    with pytest.raises(ValueError, match=r"1 weights hold NaN or infinity, first model\.norm\.weight"):
        model.save_pretrained(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_the_number_of_tokens_of_a_tile():
    assert vlm_config(scale_factor=3).image_seq_len == (SIDE // 3) ** 2
    assert vlm_config("clip", connector_type="mlp").image_seq_len == SIDE**2
    assert vlm_config("clip", connector_type="mlp", **KEEP_CLASS_TOKEN).image_seq_len == SIDE**2 + 1
    assert vlm_config("siglip", connector_type="mlp", **KEEP_CLASS_TOKEN).image_seq_len == SIDE**2
    assert vlm_config("siglip2").image_side == 4 * SIDE and vlm_config().image_token_id == IMAGE_TOKEN_ID
