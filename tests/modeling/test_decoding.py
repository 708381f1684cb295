"""The cache, padding and packing change how the work is done, never the result."""

import pytest
import torch
from modeling.builders import (
    DECODERS,
    build_decoder,
    build_vlm,
    image_prompt,
    one_row,
    random_text,
    random_tiles,
)
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.masking_utils import eager_mask

from smol_hf.modeling.attention import eager_attention

PAD = 0
CLOSE = {"rtol": 0, "atol": 1e-5}
# Greedy, without an end. Random weights like to repeat one token, which would hide an error: none comes twice.
GREEDY = {
    "do_sample": False,
    "eos_token_id": -1,
    "pad_token_id": PAD,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [PAD],
}


def models():
    for style in DECODERS:
        yield pytest.param(lambda style=style: build_decoder(style), id=f"decoder-{style}")
    for decoder in ("rotary", "gpt", "gpt2", "gemma2"):
        yield pytest.param(lambda decoder=decoder: build_vlm(decoder=decoder), id=f"vlm-{decoder}")


def models_and_kernels():
    for model in models():
        yield pytest.param(*model.values, "eager", id=f"{model.id}-eager")
        if "gemma2" not in model.id:  # its capped attention scores exist in eager only
            yield pytest.param(*model.values, "sdpa", id=f"{model.id}-sdpa")


def is_vlm(model):
    return hasattr(model, "vision_model")


def prompt_for(model, images=1, text=4, seed=0):
    """A row of ids, and the tiles it shows, for either kind of model."""
    ids = image_prompt(model.config, images, seed) if is_vlm(model) else []
    inputs = {"input_ids": one_row(ids + random_text(text, seed + 20))}
    if is_vlm(model) and images:
        inputs["pixel_values"] = random_tiles(images, seed=seed)
    return inputs


def static_cache(model):
    return StaticCache(config=model.config.get_text_config(), max_cache_len=64)


@pytest.mark.parametrize("make_cache", [lambda model: DynamicCache(), static_cache], ids=["dynamic", "static"])
@pytest.mark.parametrize("build, implementation", models_and_kernels())
@torch.no_grad()
def test_cached_decoding_equals_full_recomputation(build, implementation, make_cache):
    model = build()
    model.set_attn_implementation(implementation)
    inputs = prompt_for(model)
    prompt = inputs.pop("input_ids")
    cache = make_cache(model)
    step = model(input_ids=prompt, **inputs, past_key_values=cache, use_cache=True)
    ids = prompt
    for token in random_text(6, seed=40):
        full = model(input_ids=ids, **inputs, use_cache=False).logits[:, -1]
        torch.testing.assert_close(step.logits[:, -1], full, **CLOSE)
        ids = torch.cat([ids, one_row([token])], dim=1)
        step = model(input_ids=one_row([token]), past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("build", models())
@torch.no_grad()
def test_a_prompt_in_pieces_equals_the_prompt_at_once(build):
    model = build()
    inputs = prompt_for(model, text=8)
    ids = inputs["input_ids"]
    whole = model(**inputs, use_cache=False).logits
    cache = DynamicCache()
    first = model(**{**inputs, "input_ids": ids[:, :-7]}, past_key_values=cache, use_cache=True).logits
    second = model(input_ids=ids[:, -7:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, **CLOSE)


@pytest.mark.parametrize("build", models())
@torch.no_grad()
def test_generation_is_the_same_with_and_without_a_cache(build):
    model = build()
    inputs = prompt_for(model)
    without = model.generate(**inputs, **GREEDY, max_new_tokens=8, use_cache=False)
    assert torch.equal(model.generate(**inputs, **GREEDY, max_new_tokens=8), without)
    static = model.generate(**inputs, **GREEDY, max_new_tokens=8, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, without)


def left_padded(rows):
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
    }


def rows_and_batch(model):
    """Three prompts of different lengths (a vision-language model's with 1, 0 and 2 images), alone and padded."""
    rows = [prompt_for(model, images, text, seed) for seed, (images, text) in enumerate([(1, 3), (0, 6), (2, 5)])]
    batch = left_padded([row["input_ids"][0].tolist() for row in rows])
    if is_vlm(model):
        batch["pixel_values"] = torch.full((3, 2, 3, 24, 24), 99, dtype=torch.uint8)  # padding tiles are not black
        batch["pixel_attention_mask"] = torch.zeros(3, 2, 24, 24, dtype=torch.bool)
        for index, row in enumerate(rows):
            if "pixel_values" in row:
                count = len(row["pixel_values"])
                batch["pixel_values"][index, :count] = row["pixel_values"]
                batch["pixel_attention_mask"][index, :count] = True
    return rows, batch


@pytest.mark.parametrize("build, implementation", models_and_kernels())
@torch.no_grad()
def test_left_padded_rows_equal_single_rows(build, implementation):
    model = build()
    model.set_attn_implementation(implementation)
    rows, batch = rows_and_batch(model)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=positions).logits
    for index, row in enumerate(rows):
        alone = model(**row).logits[0]
        torch.testing.assert_close(logits[index, -len(alone) :], alone, **CLOSE)

    generated = model.generate(**batch, **GREEDY, max_new_tokens=6)[:, -6:]
    for index, row in enumerate(rows):
        assert torch.equal(generated[index], model.generate(**row, **GREEDY, max_new_tokens=6)[0, -6:])


def packed(rows):
    """One row of whole samples: positions restart with each, there is no attention mask, and tiles follow on."""
    batch = {
        "input_ids": torch.cat([row["input_ids"] for row in rows], dim=1),
        "position_ids": torch.cat([torch.arange(row["input_ids"].shape[1]) for row in rows]).unsqueeze(0),
    }
    tiles = [row["pixel_values"] for row in rows if "pixel_values" in row]
    if tiles:
        batch["pixel_values"] = torch.cat(tiles)
    return batch


@pytest.mark.parametrize("build, implementation", models_and_kernels())
@torch.no_grad()
def test_packed_samples_equal_samples_alone(build, implementation):
    model = build()
    model.set_attn_implementation(implementation)
    rows, _ = rows_and_batch(model)
    alone = torch.cat([model(**row, use_cache=False).logits for row in rows], dim=1)
    torch.testing.assert_close(model(**packed(rows), use_cache=False).logits, alone, **CLOSE)


@pytest.mark.parametrize(
    "breach", [{"attention_mask": True, "use_cache": False}, {"use_cache": True}], ids=["attention_mask", "use_cache"]
)
@pytest.mark.parametrize("build", models())
@torch.no_grad()
def test_what_breaks_the_packing_contract_leaks(build, breach):
    """Why a packed batch has no attention mask and no cache: with either, samples see those before them."""
    model = build()
    rows, _ = rows_and_batch(model)
    batch = packed(rows)
    if breach.get("attention_mask"):
        breach = {**breach, "attention_mask": torch.ones_like(batch["input_ids"])}
    alone = torch.cat([model(**row, use_cache=False).logits for row in rows], dim=1)
    leaked = model(**batch, **breach).logits
    first = rows[0]["input_ids"].shape[1]
    torch.testing.assert_close(leaked[:, :first], alone[:, :first], **CLOSE)
    assert (leaked[:, first:] - alone[:, first:]).abs().max() > 1e-2


@pytest.mark.parametrize("build", [models_of for models_of in models() if models_of.id.endswith("rotary")])
@torch.no_grad()
def test_beam_search_and_sampling(build):
    model = build()
    inputs = prompt_for(model)
    length = inputs["input_ids"].shape[1]
    beams = model.generate(
        **inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False, eos_token_id=-1
    )
    assert beams.shape == (2, length + 5)
    assert torch.equal(beams[:, :length], inputs["input_ids"].expand(2, -1))
    assert not torch.equal(beams[0], beams[1])
    sampled = model.generate(**inputs, max_new_tokens=5, do_sample=True, top_k=20, top_p=0.9, eos_token_id=-1)
    assert sampled.shape == (1, length + 5)


@pytest.mark.parametrize("build", [models_of for models_of in models() if models_of.id.endswith("rotary")])
@torch.no_grad()
def test_an_attention_function_of_the_user(build):
    calls = []

    def watched(*arguments, **settings):
        calls.append(arguments[0].layer_idx)
        return eager_attention(*arguments, **settings)

    model = build()
    inputs = prompt_for(model)
    expected = model(**inputs).logits
    AttentionInterface.register("watched", watched)
    AttentionMaskInterface.register("watched", eager_mask)
    model.set_attn_implementation({"text_config": "watched"} if is_vlm(model) else "watched")
    torch.testing.assert_close(model(**inputs).logits, expected, **CLOSE)
    assert calls == [0, 1]


@torch.no_grad()
def test_hidden_states_and_attention_weights():
    model = build_vlm()
    model.set_attn_implementation("eager")
    inputs = prompt_for(model)
    length = inputs["input_ids"].shape[1]
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(1, length, 32)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(1, 4, length, length)] * 2
    assert outputs.image_hidden_states.shape == (1, 9, 32)
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, length), **CLOSE)
        assert (weights.triu(1) == 0).all(), "nothing may look ahead"
    head = model.get_output_embeddings()
    torch.testing.assert_close(head(outputs.hidden_states[-1]), outputs.logits, **CLOSE)
    assert torch.equal(model(**inputs, return_dict=False)[0], outputs.logits)


@torch.no_grad()
def test_generation_from_embeddings_equals_generation_from_ids():
    model = build_decoder()
    ids = one_row(random_text(8))
    settings = {**GREEDY, "no_repeat_ngram_size": 0, "max_new_tokens": 6}  # the prompt's ids are not known
    from_ids = model.generate(ids, **settings)
    from_embeddings = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **settings)
    assert torch.equal(from_embeddings, from_ids[:, 8:])


@torch.no_grad()
def test_exactly_one_of_ids_and_embeddings():
    model = build_decoder()
    ids = one_row(random_text(4))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids))


@torch.no_grad()
def test_images_are_read_once_while_generating():
    model = build_vlm()
    calls = []
    model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    model.generate(**prompt_for(model), max_new_tokens=5, do_sample=False, eos_token_id=-1)
    assert len(calls) == 1
