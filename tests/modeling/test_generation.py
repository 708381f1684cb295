"""What transformers' `generate` offers works with both models: beams, outputs, drafts, embeddings, further turns."""

import copy

import pytest
import torch
from modeling.builders import (
    ENCODERS,
    IMAGE_TOKEN_ID,
    VOCAB_SIZE,
    build_decoder,
    build_processor,
    build_vlm,
    image_prompt,
    one_row,
    random_text,
    random_tiles,
    randomise,
    text_config,
)
from PIL import Image
from transformers import DynamicCache, pipeline

from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration

CLOSE = {"rtol": 0, "atol": 1e-5}
# Greedy, without an end, and without places for images.
PLAIN = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "suppress_tokens": [IMAGE_TOKEN_ID]}
LAYERS, HEADS, WIDTH = 2, 4, 32


def text():
    return build_decoder(), {"input_ids": one_row(random_text(9))}


def vlm(decoder):
    """The prompt shows two images, as flat tiles."""
    model = build_vlm(decoder=decoder)
    ids = image_prompt(model.config, images=2) + random_text(3, seed=9)
    return model, {"input_ids": one_row(ids), "pixel_values": random_tiles(2)}


VLMS = [pytest.param(lambda name=name: vlm(name), id=f"vlm-{name}") for name in ("rotary", "llama")]
MODELS = [pytest.param(text, id="text"), *VLMS]
OURS = MODELS[:2]


def answer(model, inputs, **settings):
    """The new tokens alone."""
    tokens = model.generate(**inputs, **PLAIN, **settings)
    return tokens[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else tokens


def log_probabilities(model, inputs, ids):
    """Of the next token after each of some continuations, one row each: (rows, vocabulary)."""
    rows = []
    for row in ids:
        whole = torch.cat([inputs["input_ids"], row.unsqueeze(0)], dim=1)
        rows.append(model(**{**inputs, "input_ids": whole}, logits_to_keep=1).logits[0, -1].log_softmax(-1))
    return torch.stack(rows)


# -- beams and samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_as_many_beams_as_words_find_the_best_pair(build):
    """The two most probable pairs of all, computed one by one."""
    model, inputs = build()
    words = [word for word in range(VOCAB_SIZE) if word != IMAGE_TOKEN_ID]
    first = log_probabilities(model, inputs, torch.empty(1, 0, dtype=torch.long))[:, words]
    second = log_probabilities(model, inputs, torch.tensor(words).unsqueeze(1))[:, words]
    best = (first.T + second).flatten().topk(2)
    expected = torch.tensor(words)[torch.stack([best.indices // len(words), best.indices % len(words)], dim=1)]

    settings = {"num_beams": VOCAB_SIZE, "num_return_sequences": 2, "max_new_tokens": 2, "length_penalty": 0.0}
    assert torch.equal(answer(model, inputs, **settings), expected)
    found = model.generate(**inputs, **PLAIN, **settings, return_dict_in_generate=True, output_scores=True)
    torch.testing.assert_close(found.sequences_scores, best.values, **CLOSE)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_beams_of_rows_with_different_images(padded):
    """Whether tiles are flat or padded, each beam sees the images of its row."""
    model = build_vlm()
    prompts = [image_prompt(model.config, images=images, seed=images) for images in (1, 2)]
    tiles = random_tiles(3)
    rows = [{"pixel_values": tiles[:1]}, {"pixel_values": tiles[1:]}]
    length = max(map(len, prompts))
    batch = {
        "input_ids": torch.tensor([[0] * (length - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts]),
        "pixel_values": tiles,
    }
    if padded:
        batch["pixel_values"] = torch.full((2, 2, *tiles.shape[1:]), 99, dtype=torch.uint8)
        batch["pixel_values"][0, 0], batch["pixel_values"][1] = tiles[0], tiles[1:]
        batch["pixel_attention_mask"] = torch.tensor([[1, 0], [1, 1]]).view(2, 2, 1, 1)
    settings = {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2}
    together = answer(model, batch, **settings).view(2, 2, 4)
    for row, ids, found in zip(rows, prompts, together):
        assert torch.equal(answer(model, {"input_ids": one_row(ids), **row}, **settings), found)


def check_outputs(output, length, tokens, rows):
    """The shapes of what is asked for in each step: the first sees the prompt, the others one token."""
    assert output.sequences.shape == (rows, length + tokens)
    for steps in (output.scores, output.logits, output.hidden_states, output.attentions):
        assert len(steps) == tokens
    for step in range(tokens):
        queries, keys = (length, length) if step == 0 else (1, length + step)
        assert output.scores[step].shape == output.logits[step].shape == (rows, VOCAB_SIZE)
        assert [state.shape for state in output.hidden_states[step]] == [(rows, queries, WIDTH)] * (LAYERS + 1)
        assert [each.shape for each in output.attentions[step]] == [(rows, HEADS, queries, keys)] * LAYERS
    assert output.past_key_values.get_seq_length() == length + tokens - 1


KEEP = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_hidden_states": True,
    "output_attentions": True,
}


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_outputs_of_greedy_decoding_and_of_sampling(build):
    model, inputs = build()
    model.set_attn_implementation("eager")
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, **PLAIN, **KEEP, max_new_tokens=3)
    check_outputs(output, length, tokens=3, rows=1)
    new = output.sequences[:, length:]
    assert torch.equal(torch.stack([scores.argmax(-1) for scores in output.scores], dim=1), new)
    chosen = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    expected = [scores.log_softmax(-1)[0, token] for scores, token in zip(output.scores, new[0])]
    torch.testing.assert_close(chosen[0], torch.stack(expected), **CLOSE)

    settings = {**PLAIN, **KEEP, "do_sample": True, "num_return_sequences": 3, "max_new_tokens": 3, "top_k": 40}
    torch.manual_seed(1)
    sampled = model.generate(**inputs, **settings)
    check_outputs(sampled, length, tokens=3, rows=3)
    assert len(set(map(tuple, sampled.sequences.tolist()))) == 3
    for step, scores in enumerate(sampled.scores):
        assert (scores.isfinite().sum(-1) == 40).all()
        assert scores.gather(1, sampled.sequences[:, length + step, None]).isfinite().all()
    torch.manual_seed(1)
    assert torch.equal(model.generate(**inputs, **settings).sequences, sampled.sequences)


@pytest.mark.parametrize("build", OURS)
@torch.no_grad()
def test_outputs_of_beam_search(build):
    model, inputs = build()
    model.set_attn_implementation("eager")
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, **PLAIN, **KEEP, max_new_tokens=3, num_beams=2)
    assert output.sequences.shape == (1, length + 3) and output.sequences_scores.shape == (1,)
    assert output.beam_indices.shape[0] == 1 and output.scores[0].shape == (2, VOCAB_SIZE)
    assert [state.shape for state in output.hidden_states[1]] == [(2, 1, WIDTH)] * (LAYERS + 1)
    assert [each.shape for each in output.attentions[1]] == [(2, HEADS, 1, length + 1)] * LAYERS
    chosen = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    torch.testing.assert_close(chosen.sum(dim=1) / 3, output.sequences_scores, **CLOSE)


# -- drafts -----------------------------------------------------------------------------------------------------------


def forward_passes(model, work):
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    result = work()
    hook.remove()
    return result, len(calls)


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_another_model_drafts(build):
    """It never changes the answer. One that thinks alike sees the images too, so that all its drafts are accepted."""
    model, inputs = build()
    twin, other = copy.deepcopy(model), randomise(copy.deepcopy(model), scale=0.05, seed=7)
    expected, alone = forward_passes(model, lambda: answer(model, inputs, max_new_tokens=12))
    assert torch.equal(answer(model, inputs, max_new_tokens=12, assistant_model=other), expected)
    for assistant in (twin, other):
        assistant.generation_config.num_assistant_tokens = 5
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
        assistant.generation_config.assistant_confidence_threshold = 0
    drafted, passes = forward_passes(model, lambda: answer(model, inputs, max_new_tokens=12, assistant_model=twin))
    assert torch.equal(drafted, expected)
    assert alone == 12 and passes == 2, "each pass must accept five drafted tokens and add one"


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_the_prompt_drafts(build):
    model, inputs = build()
    expected = answer(model, inputs, max_new_tokens=12)
    found = answer(model, inputs, max_new_tokens=12, prompt_lookup_num_tokens=3)
    assert torch.equal(found[:, :12], expected)  # transformers 4.57 may add a token more than was asked for


@pytest.mark.parametrize("style", ["rotary", "gpt", "nope"])
@torch.no_grad()
def test_the_first_layers_draft(style):
    model = build_decoder(style)
    inputs = {"input_ids": one_row(random_text(9))}
    expected = answer(model, inputs, max_new_tokens=8)
    layers = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda layer, *_: layers.append(layer.self_attn.layer_idx))
    assert torch.equal(answer(model, inputs, max_new_tokens=8, assistant_early_exit=1), expected)
    assert layers.count(0) > layers.count(1) > 0
    assert model.config.num_hidden_layers == len(model.model.layers)


@pytest.mark.parametrize("build", VLMS)
@torch.no_grad()
def test_the_first_layers_of_a_vision_language_model_draft(build):
    """Those of transformers' own classes do not: their error names a missing attribute."""
    model, inputs = build()
    expected = answer(model, inputs, max_new_tokens=8)
    decoder, layers = model.get_decoder(), []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda layer, *_: layers.append(layer.self_attn.layer_idx))
    assert torch.equal(answer(model, inputs, max_new_tokens=8, assistant_early_exit=1), expected)
    assert layers.count(0) > layers.count(1) > 0
    assert decoder.config.num_hidden_layers == len(decoder.layers)


# -- embeddings, further turns, pipelines -----------------------------------------------------------------------------


@pytest.mark.parametrize("build", MODELS)
@torch.no_grad()
def test_generation_from_embeddings(build):
    model, inputs = build()
    expected = answer(model, inputs, max_new_tokens=5)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    images = {name: value for name, value in inputs.items() if name == "pixel_values"}
    assert torch.equal(answer(model, {"inputs_embeds": embeddings, **images}, max_new_tokens=5), expected)
    beams = {"max_new_tokens": 5, "num_beams": 3}
    found = answer(model, {"inputs_embeds": embeddings, **images}, **beams)
    assert torch.equal(found, answer(model, inputs, **beams))


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("build", VLMS)
@torch.no_grad()
def test_a_further_turn_goes_on_from_the_cache(build, images):
    """Its images are read; those of the turns before are in the cache."""
    model, inputs = build()
    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(**inputs, **PLAIN, max_new_tokens=3, past_key_values=cache)
    ids = torch.cat([first, one_row(image_prompt(model.config, images, seed=30))], dim=1)
    tiles = random_tiles(images, seed=31)
    whole = {"input_ids": ids, "pixel_values": torch.cat([inputs["pixel_values"], tiles])}
    expected = answer(model, whole, max_new_tokens=4)
    turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    new = {"pixel_values": tiles} if images else {"pixel_values": inputs["pixel_values"]}  # which is read already
    assert torch.equal(answer(model, {**turn, **new}, max_new_tokens=4, past_key_values=cache), expected)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """transformers' pipeline, with a checkpoint that cuts images larger than 32 pixels into tiles."""
    folder, processor = tmp_path_factory.mktemp("checkpoint"), build_processor()
    config = SmolHFConfig(
        text_config=text_config(vocab_size=len(processor.tokenizer), max_position_embeddings=512),
        vision_config={**ENCODERS["siglip"], "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=processor.image_token_id,
    )
    randomise(SmolHFForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return pipeline("image-text-to-text", model=str(folder), trust_remote_code=True)


def picture(side, seed):
    return Image.fromarray(random_tiles(1, side=side, seed=seed)[0].permute(1, 2, 0).numpy())


def chat(question, *media):
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


@pytest.mark.parametrize("case", ["one tile each", "any media"])
def test_a_pipeline_with_batches(pipe, case):
    settings = {"return_tensors": True, "generate_kwargs": {**PLAIN, "max_new_tokens": 6, "no_repeat_ngram_size": 1}}
    images = [{"type": "image", "image": picture(32, seed)} for seed in range(3)]
    questions = ["What is in the picture?", "Is it a cat that sits on the mat?", "yes?"]
    chats = [chat(*pair) for pair in zip(questions, images)]
    if case == "any media":  # so their numbers of tiles differ
        video = {"type": "video", "video": [picture(32, seed) for seed in range(3)]}
        large = {"type": "image", "image": picture(64, 5)}
        chats += [chat("What?", large), chat("Where is the cat?"), chat("How?", video, images[0])]
        settings["flat_tiles"] = True
    alone = [pipe(text=chat, **settings)[0]["generated_token_ids"][-6:].tolist() for chat in chats]
    batched = [result[0]["generated_token_ids"][-6:].tolist() for result in pipe(text=chats, batch_size=2, **settings)]
    assert batched == alone and len(set(map(tuple, alone))) == len(chats)


def test_flat_tiles_change_no_answer(pipe):
    settings = {"return_tensors": True, "generate_kwargs": {**PLAIN, "max_new_tokens": 6}}
    question = chat("What?", {"type": "image", "image": picture(64, 5)}, {"type": "image", "image": picture(32, 6)})
    padded, flat = (pipe(text=question, flat_tiles=switch, **settings) for switch in (False, True))
    assert flat[0]["generated_token_ids"].tolist() == padded[0]["generated_token_ids"].tolist()


@pytest.mark.parametrize("build", OURS)
def test_stop_strings_are_found_with_a_tokenizer(build):
    """Transformers passes the tokenizer on to the forward, and `transformers serve` gives one in each request."""
    model, inputs = build()
    tokenizer = build_processor().tokenizer
    expected = answer(model, inputs, max_new_tokens=12)[0].tolist()
    assert answer(model, inputs, max_new_tokens=12, tokenizer=tokenizer)[0].tolist() == expected
    end = tokenizer.decode(expected[4])
    stopped = answer(model, inputs, max_new_tokens=12, tokenizer=tokenizer, stop_strings=[end])[0].tolist()
    assert stopped == expected[: len(stopped)] and len(stopped) <= 5
