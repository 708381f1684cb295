"""Outputs of every model: kernels that agree, gradients, tuples, embeddings instead of ids, image features."""

import pytest
import torch
from modeling.behaving_models import CLOSE, MODELS, logits, vlm
from modeling.builders import (
    IMAGE_TOKEN_ID,
    gradients,
    image_prompt,
    largest_difference,
    one_row,
    random_text,
    random_tiles,
)

from smol_hf.modeling.compatibility import FEATURES_IN_OUTPUT

# -- outputs and gradients --------------------------------------------------------------------------------------------


def padded_batch(model):
    """Two rows, the shorter one padded on the left; each of a vision-language model's shows an image."""
    is_vlm = hasattr(model, "vision_model")
    long = (image_prompt(model.config) if is_vlm else []) + random_text(6, seed=3)
    ids = torch.tensor([[0, 0, *long[:-2]], long])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][0, :2] = 0
    return {**batch, "pixel_values": random_tiles(2)} if is_vlm else batch


@pytest.mark.parametrize("build", MODELS)
def test_eager_equals_sdpa(build):
    """Logits and gradients, with padding."""
    model, _ = build()
    batch = padded_batch(model)
    labels = batch["input_ids"].clone()
    labels[0, :3] = -100  # nothing to learn from what padding predicts
    found = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        output = model(**batch, labels=labels)
        output.loss.backward()
        found[implementation] = output.logits.detach()[batch["attention_mask"] == 1], gradients(model)
    torch.testing.assert_close(found["eager"][0], found["sdpa"][0], **CLOSE)
    assert largest_difference(found["eager"][1], found["sdpa"][1]) < 1e-5


@pytest.mark.parametrize("build", MODELS)
def test_gradients_of_hidden_states_and_attention_weights(build):
    model, inputs = build()
    model.set_attn_implementation("eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    for tensor in (*output.hidden_states, *output.attentions):
        tensor.retain_grad()
    output.logits[:, -1].sum().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in (*output.hidden_states, *output.attentions))


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_a_tuple_has_what_the_output_has(build):
    model, inputs = build()
    model.set_attn_implementation("eager")
    keep = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
    output = model(**inputs, **keep)
    whole = model(**inputs, **keep, return_dict=False)
    assert isinstance(whole, tuple) and len(whole) == len(output.to_tuple())
    assert torch.equal(whole[0], output.logits)
    for these, those in zip(whole[1:3], (output.hidden_states, output.attentions)):
        assert all(map(torch.equal, these, those))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("build", MODELS)
def test_gradient_checkpointing_can_be_switched(build, reentrant):
    """It changes no gradient, and its layers run twice only while it is on."""
    model, inputs = build()
    model.train()
    if reentrant:
        model.enable_input_require_grads()
    runs = []
    layer = model.get_decoder().layers[0]
    layer.input_layernorm.register_forward_hook(lambda *_: runs.append(1))

    def step():
        runs.clear()
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        return gradients(model), len(runs)

    expected, once = step()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    found, twice = step()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert (once, twice, step()[1]) == (1, 2, 1)
    assert largest_difference(found, expected) < 1e-6
    assert expected.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_embeddings_instead_of_ids(build):
    model, inputs = build()
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    instead = {**inputs, "inputs_embeds": embeddings}
    del instead["input_ids"]
    assert torch.equal(logits(model, instead), logits(model, inputs))


# -- image features ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"connector_type": "mlp", "vision_feature_layer": -2}], ids=["last", "-2"])
@torch.no_grad()
def test_image_features(changes):
    """As transformers' SmolVLM returns them: those of each row of a padded batch together."""
    model, _ = vlm(**changes)
    tiles, count = random_tiles(3), model.config.image_seq_len
    padded = torch.full((2, 2, *tiles.shape[1:]), 99, dtype=torch.uint8)
    padded[0, 0], padded[1] = tiles[0], tiles[1:]
    mask = torch.tensor([[1, 0], [1, 1]]).view(2, 2, 1, 1)
    ids = one_row([IMAGE_TOKEN_ID] * 3 * count)
    expected = model(input_ids=ids, pixel_values=tiles).image_hidden_states
    flat, rows = model.get_image_features(tiles), model.get_image_features(padded, mask)
    if not FEATURES_IN_OUTPUT:  # transformers 4.57
        assert torch.equal(flat, expected) and torch.equal(rows, expected)
        assert torch.equal(model.get_image_features(tiles, return_dict=False), expected)
        return
    assert [each.shape for each in flat.pooler_output] == [(count, 32)] * 3
    assert [each.shape for each in rows.pooler_output] == [(count, 32), (2 * count, 32)]
    assert torch.equal(torch.stack(flat.pooler_output), expected)
    assert torch.equal(torch.cat(rows.pooler_output), expected.flatten(0, 1))
    assert torch.equal(rows.last_hidden_state, model.vision_model(flat_pixels(model, tiles)).last_hidden_state)
    assert rows.hidden_states is None and rows.attentions is None
    model.set_attn_implementation("eager")
    kept = model.get_image_features(tiles, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in kept.hidden_states] == [(3, 36, 16)] * 3
    assert [weights.shape for weights in kept.attentions] == [(3, 2, 36, 36)] * 2
    assert torch.equal(model.get_image_features(tiles, return_dict=False)[0], kept.last_hidden_state)
    model.config.return_dict = False
    assert torch.equal(model.get_image_features(tiles)[0], kept.last_hidden_state)
    assert torch.equal(model.get_image_features(tiles, return_dict=True).last_hidden_state, kept.last_hidden_state)


def flat_pixels(model, tiles):
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (model.config.image_mean, model.config.image_std))
    return (tiles / 255 - mean) / std
