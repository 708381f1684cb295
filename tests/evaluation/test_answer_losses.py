"""The loss of the right answers, computed from the cache of the prompts after generation."""

import pytest
from evaluation.held_out import evaluated, lines_of, save_rows
from transformers import BatchEncoding, DynamicCache, LlamaConfig

from smol_hf.data.records import Place, adapt
from smol_hf.evaluation.prompts import answer_ids, answer_losses, cuts, encode, messages_of
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.generation import generate_with_cache
from smol_hf.inference.sampling import Sampling
from smol_hf.modeling.compatibility import CACHE_NAME
from smol_hf.support.tokenizer_of import tokenizer_of


@pytest.fixture(scope="module")
def batch(vlm, tmp_path_factory):
    """(model, tokenizer, inputs, answers): prompts of unequal lengths, two with an image; one without an answer."""
    model, processor = load_checkpoint(vlm, device="cpu")
    folder = tmp_path_factory.mktemp("rows")
    save_rows(folder)
    rows = [
        {"image": "1.png", "question": "Which digit is here?", "answer": "one of them"},
        {"question": "Why?", "answer": "3"},
        {"image": "3.png", "question": "And here, and there?", "answer": "two"},
    ]
    asked = [adapt({**row, "answer": ""}, Place("rows:1", folder)) for row in rows]
    messages = [messages_of(processor, each)[:-1] for each in asked]
    answers = [answer_ids(model, processor, each, row["answer"]) for each, row in zip(messages, rows)]
    answers[1] = []
    return model, tokenizer_of(processor), encode(processor, messages), answers


@pytest.mark.parametrize("new_tokens", [1, 8])
def test_the_cache_gives_the_loss_of_a_whole_forward(batch, new_tokens):
    model, tokenizer, inputs, answers = batch
    options = {"max_new_tokens": new_tokens, "chat": True, "rows": range(3)}
    _, cache = generate_with_cache(model, tokenizer, inputs, Sampling(), **options)
    expected = answer_losses(model, tokenizer, BatchEncoding(dict(inputs)), answers)
    read = []
    hook = model.register_forward_pre_hook(lambda module, args, given: read.append(given), with_kwargs=True)
    found = answer_losses(model, tokenizer, inputs, answers, cache)
    hook.remove()
    assert found == pytest.approx(expected, abs=1e-4) and found[0] > 0 and found[1] == 0
    assert read[0]["input_ids"].shape[1] == 1 + max(map(len, answers)) and "pixel_values" not in read[0]
    assert CACHE_NAME in read[0]


def test_an_evaluation_reads_images_once(vlm, tmp_path, monkeypatch):
    """Blind answers have no image, so one forward of the encoder per batch of images."""
    calls = []
    load = load_checkpoint

    def counted(*arguments, **options):
        model, processor = load(*arguments, **options)
        model.vision_model.register_forward_pre_hook(lambda module, args: calls.append(1))
        return model, processor

    monkeypatch.setattr("smol_hf.evaluation.run.load_checkpoint", counted)
    results = evaluated(vlm, save_rows(tmp_path / "data"), tmp_path / "out", batch_size=1, baselines=["none"])
    assert len(lines_of(tmp_path / "out")) == 12 and results["measured_references"] == 12
    assert len(calls) == 11  # rows with an image


def test_only_caches_of_all_tokens_are_cut(batch):
    model, tokenizer, inputs, _ = batch
    _, cache = generate_with_cache(model, tokenizer, inputs, Sampling(), max_new_tokens=2, chat=True, rows=range(3))
    length = inputs["input_ids"].shape[1]
    assert cuts(cache, length) and not cuts(cache, length + 2)
    window = LlamaConfig(num_hidden_layers=2, sliding_window=4)
    window.layer_types = ["sliding_attention"] * 2
    assert not cuts(DynamicCache(config=window), 0)
    assert not cuts(None, length)
