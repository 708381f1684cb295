"""What transformers expects of every model: embeddings that grow, tied weights, shards, devices, checkpointing."""

import copy
import json

import pytest
import torch
from modeling.builders import (
    IMAGE_TOKEN_ID,
    VOCAB_SIZE,
    build_decoder,
    build_vlm,
    gradients,
    image_prompt,
    largest_difference,
    one_row,
    random_text,
    random_tiles,
)
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from smol_hf.modeling.compatibility import FEATURES_IN_OUTPUT

CLOSE = {"rtol": 0, "atol": 1e-5}


def text(**changes):
    return build_decoder(**changes), {"input_ids": one_row(random_text(9))}


def vlm(decoder="rotary", **changes):
    model = build_vlm(decoder=decoder, **changes)
    ids = image_prompt(model.config, images=2) + random_text(3, seed=9)
    return model, {"input_ids": one_row(ids), "pixel_values": random_tiles(2)}


MODELS = [
    pytest.param(text, id="text"),
    *(pytest.param(lambda name=name: vlm(name), id=f"vlm-{name}") for name in ("rotary", "llama")),
]
OURS = MODELS[:2]


def load(folder, model, **settings):
    loader = AutoModelForImageTextToText if hasattr(model, "vision_model") else AutoModelForCausalLM
    return loader.from_pretrained(folder, **settings).eval()


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


# -- embeddings and tied weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [VOCAB_SIZE + 7, VOCAB_SIZE - 2])
@pytest.mark.parametrize("build", MODELS)
def test_resized_embeddings(build, rows, tmp_path):
    model, inputs = build()
    expected = logits(model, inputs)
    common = min(rows, VOCAB_SIZE)
    inputs["input_ids"].clamp_(max=common - 1)
    expected = logits(model, inputs)
    model.resize_token_embeddings(rows, mean_resizing=False)
    assert model.config.get_text_config().vocab_size == rows
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight) == rows
    torch.testing.assert_close(logits(model, inputs)[..., :common], expected[..., :common], **CLOSE)
    if rows > VOCAB_SIZE:
        new = {**inputs, "input_ids": inputs["input_ids"].clone()}
        new["input_ids"][0, -2] = rows - 1
        model.train()(**new, labels=new["input_ids"]).loss.backward()
        assert model.get_input_embeddings().weight.grad[rows - 1].abs().max() > 0
        model.eval()
    model.save_pretrained(tmp_path)
    again = load(tmp_path, model)
    assert again.config.get_text_config().vocab_size == rows
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@pytest.mark.parametrize("build", OURS)
def test_embeddings_can_be_replaced(build):
    model, inputs = build()
    expected = logits(model, inputs)
    model.set_input_embeddings(copy.deepcopy(model.get_input_embeddings()))
    model.set_output_embeddings(copy.deepcopy(model.get_output_embeddings()))
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    model.tie_weights()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert torch.equal(logits(model, inputs), expected)


def names_in(folder):
    names = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names += file.keys()
    return names


@pytest.mark.parametrize("build", OURS)
def test_tied_weights_are_one_tensor(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path)
    assert sum("lm_head" in name or "embed_tokens" in name for name in names_in(tmp_path)) == 1
    again = load(tmp_path, model)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    before = logits(again, inputs)
    assert torch.equal(before, logits(model, inputs))
    with torch.no_grad():
        again.get_input_embeddings().weight[70] += 1.0
    assert (logits(again, inputs) - before)[..., 70].abs().max() > 1e-3


@pytest.mark.parametrize("build", [text, lambda **changes: vlm(text_config=text(**changes)[0].config)])
def test_untied_weights_are_two_tensors(build, tmp_path):
    model, inputs = build(tie_word_embeddings=False)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert sum("lm_head" in name or "embed_tokens" in name for name in names_in(tmp_path)) == 2
    again = load(tmp_path, model)
    assert again.get_output_embeddings().weight is not again.get_input_embeddings().weight
    assert torch.equal(logits(again, inputs), logits(model, inputs))


# -- saving, loading, devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", MODELS)
def test_sharded_saves(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(names_in(tmp_path)) == sorted(index["weight_map"])
    assert torch.equal(logits(load(tmp_path, model), inputs), logits(model, inputs))
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"], "old shards must go"


@pytest.mark.parametrize("build", MODELS)
def test_device_maps(build, tmp_path):
    """Whole, and with a layer of the decoder on the disk, from which it comes for its turn."""
    model, inputs = build()
    model.save_pretrained(tmp_path)
    expected = logits(model, inputs)
    assert torch.equal(logits(load(tmp_path, model, device_map={"": "cpu"}), inputs), expected)
    assert torch.equal(logits(load(tmp_path, model, device_map="auto"), inputs), expected)
    layer = "language_model.model.layers.1" if "pixel_values" in inputs else "model.layers.1"
    holding = {name for name, module in model.named_modules() if not name or layer.startswith(f"{name}.")}
    parts = {
        f"{name}.{child}".lstrip(".") for name in holding for child, _ in model.get_submodule(name).named_children()
    }
    device_map = {part: "disk" if part == layer else "cpu" for part in parts - holding}
    away = load(tmp_path, model, device_map=device_map, offload_folder=tmp_path / "away")
    layer = away.get_submodule(layer)
    assert {weight.device.type for weight in layer.parameters()} == {"meta"}
    assert torch.equal(logits(away, inputs), expected)
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(away.generate(**inputs, **settings), model.generate(**inputs, **settings))


@pytest.mark.parametrize("build", OURS)
def test_what_must_stay_together_on_a_device(build):
    model, _ = build()
    classes = {type(module).__name__ for module in model.modules()}
    assert "SmolHFDecoderLayer" in model._no_split_modules
    assert set(model._no_split_modules) & classes, "the names must be those of modules"


@pytest.mark.parametrize("build", MODELS)
def test_a_copy_is_independent(build):
    model, inputs = build()
    twin = copy.deepcopy(model)
    expected = logits(model, inputs)
    assert torch.equal(logits(twin, inputs), expected)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(2)
    assert torch.equal(logits(model, inputs), expected)
    assert not torch.equal(logits(twin, inputs), expected)


@pytest.mark.parametrize("build", OURS)
def test_a_checkpoint_of_another_size_is_refused(build, tmp_path):
    model, inputs = build()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = VOCAB_SIZE + 8
    with pytest.raises(RuntimeError, match=r"mismatch|ignore_mismatched_sizes"):
        load(tmp_path, model, config=config)
    again = load(tmp_path, model, config=config, ignore_mismatched_sizes=True)
    assert logits(again, inputs).shape[-1] == VOCAB_SIZE + 8
    assert logits(again, inputs).isfinite().all()


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
