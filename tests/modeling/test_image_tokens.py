"""Image tokens and image features: their numbers match, and a step without images runs the vision path."""

import pytest
import torch
from modeling.builders import (
    ENCODERS,
    build_vlm,
    gradients,
    image_prompt,
    one_row,
    random_text,
    random_tiles,
    training_inputs,
)


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


@pytest.mark.parametrize("padded", [False, True])
def test_without_gradients_each_distinct_tile_of_a_batch_is_encoded_once(padded):
    """Rows about one image, and beams, repeat it. In training all are encoded."""
    model = build_vlm()
    one, two = random_tiles(2)
    tiles = torch.stack([one, two, one, two.flip(-1), one])  # the flipped one has the same sum
    ids = torch.tensor([image_prompt(model.config, seed=seed) for seed in range(5)])
    inputs = {"input_ids": ids, "pixel_values": tiles.unsqueeze(1) if padded else tiles}
    numbers = []
    model.vision_model.register_forward_pre_hook(
        lambda _, arguments, inputs: numbers.append(len(inputs["pixel_values"])), with_kwargs=True
    )
    expected = model(**inputs).logits
    with torch.no_grad():
        found = model(**inputs).logits
        model.generate(**inputs, num_beams=2, max_new_tokens=2, eos_token_id=-1, pad_token_id=0)
    assert numbers == [5, 3, 3]
    assert torch.allclose(found, expected, atol=1e-5)


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
