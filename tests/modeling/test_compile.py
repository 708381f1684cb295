"""torch.compile captures each model as one graph: no step of ours falls back to Python.

The `aot_eager` backend captures graphs as `inductor` does, forward and backward, without the minutes of code
generation; one test goes all the way where there is a C++ compiler.
"""

import shutil

import pytest
import torch
from modeling.builders import (
    BACKBONES,
    ENCODERS,
    build_decoder,
    build_vlm,
    gradients,
    image_prompt,
    largest_difference,
    one_row,
    random_text,
    random_tiles,
    text_config,
)
from torch._dynamo.testing import CompileCounter
from transformers import StaticCache

from smol_hf.modeling.label_loss import labelled_positions
from smol_hf.modeling.mask import sample_bounds
from smol_hf.training.loader import to_device

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, backend="aot_eager", fullgraph=True):
    return torch.compile(model, backend=backend, fullgraph=fullgraph)


def small_vlm(encoder="siglip", decoder="rotary"):
    """A model with one layer in each part: the compiler takes seconds for a layer."""
    if decoder in BACKBONES:
        text = {**BACKBONES[decoder], "n_layer": 1}
    elif decoder == "nope":  # a layer with positions, and one without
        text = text_config("nope", num_hidden_layers=2, no_rope_layers=[1, 0])
    else:
        text = text_config(decoder, num_hidden_layers=1)
    return build_vlm(encoder, text_config=text, vision_config={**ENCODERS[encoder], "num_hidden_layers": 1})


def flat_tiles(model):
    ids = torch.tensor([image_prompt(model.config, 1), image_prompt(model.config, 1, seed=7)])
    return {"input_ids": ids, "pixel_values": random_tiles(2), "use_cache": False}


def padded_tiles(model):
    one, two = image_prompt(model.config, 1), image_prompt(model.config, 2, seed=1)
    tiles = random_tiles(4).view(2, 2, 3, 24, 24)
    mask = torch.tensor([[False, True], [True, True]])[:, :, None, None].expand(2, 2, 24, 24)
    padding = len(two) - len(one)
    return {
        "input_ids": torch.tensor([[0] * padding + one, two]),
        "attention_mask": torch.tensor([[0] * padding + [1] * len(one), [1] * len(two)]),
        "pixel_values": tiles,
        "pixel_attention_mask": mask,
        "use_cache": False,
    }


def packed_rows(model):
    rows = [image_prompt(model.config, 1), image_prompt(model.config, 1, seed=3)]
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    return {
        "input_ids": one_row([token for row in rows for token in row]),
        "position_ids": positions.unsqueeze(0),
        "pixel_values": random_tiles(2),
        "use_cache": False,
    }


@torch.no_grad()
def test_the_forward_pass_over_padded_tiles_is_one_graph():
    """(Over flat tiles, and over packed rows in training, below.)"""
    model = small_vlm()
    inputs = padded_tiles(model)
    expected = model(**inputs).logits
    torch.testing.assert_close(compiled(model)(**inputs).logits, expected, **CLOSE)


@pytest.mark.parametrize("encoder, decoder", [("siglip2", "gpt"), ("clip", "nope"), ("dinov2", "gpt2")])
@torch.no_grad()
def test_other_parts_are_one_graph(encoder, decoder):
    model = small_vlm(encoder, decoder)
    inputs = flat_tiles(model)
    expected = model(**inputs).logits
    torch.testing.assert_close(compiled(model)(**inputs).logits, expected, **CLOSE)


def labelled(model, images):
    inputs = packed_rows(model) if images else {"input_ids": one_row(random_text(12)), "use_cache": False}
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    return {**inputs, "labels": labels}


@pytest.mark.parametrize(
    "images, positions_given", [(True, True), (False, True), (False, False)], ids=["images", "text", "text-unknown"]
)
def test_training(images, positions_given):
    """One graph when the collator gives the labelled positions; otherwise finding them may break the graph once."""
    model = small_vlm().train()
    inputs = labelled(model, images)
    expected = model(**inputs).loss
    expected.backward()
    expected_gradients = gradients(model)
    model.zero_grad()

    if positions_given:
        inputs["logits_to_keep"] = labelled_positions(inputs["labels"])
    loss = compiled(model, fullgraph=positions_given)(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert largest_difference(gradients(model), expected_gradients) < 1e-5


@torch.no_grad()
def test_the_decoding_step_is_one_graph():
    model = small_vlm()
    ids = one_row(image_prompt(model.config))
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    model(input_ids=ids, pixel_values=random_tiles(1), past_key_values=cache, use_cache=True)
    step = compiled(model)
    for token in random_text(3):
        ids = torch.cat([ids, one_row([token])], dim=1)
        logits = step(input_ids=one_row([token]), past_key_values=cache, use_cache=True).logits
        expected = model(input_ids=ids, pixel_values=random_tiles(1), use_cache=False).logits[:, -1:]
        torch.testing.assert_close(logits, expected, **CLOSE)


needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="generated code needs a C++ compiler"
)


@needs_compiler
@torch.no_grad()
def test_generated_code_computes_the_same():
    model = build_decoder(num_hidden_layers=1)
    ids = one_row(random_text(9))
    expected = model(ids, use_cache=False).logits
    torch.testing.assert_close(compiled(model, "inductor")(ids, use_cache=False).logits, expected, **CLOSE)


@needs_compiler
@torch.no_grad()
def test_flex_attention_keeps_packed_samples_apart():
    """transformers compiles it always. The rows are stacked."""
    model = build_decoder(num_hidden_layers=1)
    lengths = (7, 9, 10, 6)
    rows = [random_text(length, seed=length) for length in lengths]
    alone = torch.cat([model(one_row(row), use_cache=False).logits[0] for row in rows])
    model.set_attn_implementation("flex_attention")
    ids = torch.tensor([rows[0] + rows[1], rows[2] + rows[3]])
    positions = torch.cat([torch.arange(length) for length in lengths]).view(2, 16)
    packed = model(ids, position_ids=positions, use_cache=False, **sample_bounds(positions)).logits
    torch.testing.assert_close(packed.flatten(0, 1), alone, **CLOSE)


def batches_of_all_sizes(model):
    """Ten packed batches as the trainer gives them: 2 to 4 samples of many lengths; some batches have no image."""
    token = model.config.image_token_id
    for seed in range(10):
        images = 0 if seed % 3 == 2 else 2 + seed % 2
        rows = [image_prompt(model.config, 1, seed=seed + row) for row in range(images)]
        rows += [random_text(5 + 3 * seed + row, seed=seed) for row in range(4 - images)]
        ids = one_row([each for row in rows for each in row])
        positions = torch.cat([torch.arange(len(row)) for row in rows]).unsqueeze(0)
        labels = ids.clone()
        labels[:, : -4 - seed] = -100
        batch = {
            "input_ids": ids, "labels": labels, "position_ids": positions, **sample_bounds(positions),
            "logits_to_keep": labelled_positions(labels),
            "image_positions": (ids == token).flatten().nonzero().squeeze(-1),
        }  # fmt: skip
        batch |= {"pixel_values": random_tiles(images)} if images else {}
        cpu = torch.device("cpu")
        yield {
            key: to_device(each, cpu, compiled=True) if torch.is_tensor(each) else each for key, each in batch.items()
        }


def test_batches_of_all_sizes_share_two_graphs():
    """One graph for batches with images and one for those without."""
    model, counter = small_vlm().train(), CompileCounter()
    step = torch.compile(model, backend=counter, fullgraph=True)
    for batch in batches_of_all_sizes(model):
        loss = step(**batch, use_cache=False).loss
        torch.testing.assert_close(loss, model(**batch, use_cache=False).loss, **CLOSE)
    assert counter.frame_count <= 2
