"""Any encoder, any connector, any language model: each combination learns, answers and comes back from disk."""

from collections import Counter

import pytest
import torch
from modeling.builders import (
    BACKBONES,
    ENCODERS,
    KEEP_CLASS_TOKEN,
    VOCAB_SIZE,
    build_vlm,
    gradients,
    image_prompt,
    largest_difference,
    one_row,
    random_tiles,
    text_config,
    training_inputs,
    vlm_config,
)
from transformers import AutoModelForImageTextToText
from transformers.modeling_layers import GradientCheckpointingLayer

from smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.connector import pixel_shuffle
from smol_hf.modeling.tiles import normalize_tiles


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
