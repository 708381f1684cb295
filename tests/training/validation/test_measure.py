"""A validation measures the mean over labelled tokens, and leaves the training as it was."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from helpers import build_model, build_processor, plan_for
from processes import call, fork_ranks
from talks import records, write_questions
from tiny_runs import RECIPE, train_here, train_words
from tiny_trainers import losses, weights
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.data.sources.source import BlockCache
from smol_hf.training.log.console import read_log
from smol_hf.training.recipe import inherited_checks
from smol_hf.training.validation.measure import Seen, Validation, undisturbed

DROPOUT = {
    "vision_config": {**RECIPE["vision_config"], "attention_dropout": 0.2},
    "text_config": {**RECIPE["text_config"], "attention_dropout": 0.2},
}
EVALUATED = {
    "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "eval_generate_samples": 5,
    "eval_metric": ["exact_match", "contains"], "eval_max_new_tokens": 3, "per_device_eval_batch_size": 2,
}  # fmt: skip


def validations(output):
    return [
        {name: value for name, value in entry.items() if name != "eval_seconds"}
        for entry in read_log(output)
        if "eval_loss" in entry
    ]


@pytest.mark.parametrize(
    "keys",
    [{}, {"gradient_checkpointing": True, "sample_packing": True}, {"unfreeze_vision_at_step": 2}, {"bf16": True}],
    ids=["", "checkpointing, packed", "a frozen part", "bfloat16"],
)
def test_a_run_with_validations_trains_as_one_without_to_the_last_bit(keys, tmp_path):
    keys = {**DROPOUT, **keys, "save_strategy": "no", "eval_fraction": 0.3, "max_steps": 4}
    without = train_here(tmp_path / "without", **keys)
    evaluated = train_here(tmp_path / "with", **keys, **EVALUATED)
    assert [each["step"] for each in validations(tmp_path / "with")] == [0, 1, 2, 3, 4]
    assert losses(evaluated) == losses(without) and len(losses(without)) == 4
    mine, theirs = weights(evaluated), weights(without)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_validation_restores_modes_and_random_numbers():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model[1].eval()  # a frozen part
    before = torch.get_rng_state()
    with pytest.raises(ValueError), undisturbed(model, torch.device("cpu")):
        assert not model.training and not model[0].training and not torch.is_grad_enabled()
        torch.rand(3)
        raise ValueError
    assert [module.training for module in model.modules()] == [True, True, False, False]
    assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()


def expected_loss(plan, model):
    """The mean over the labels of all samples, each in a row of its own, and the number of labels."""
    lane, nats, tokens = plan.lane(0, BlockCache(plan.sources)), 0.0, 0
    while not (row := lane.next_row()).finished:
        for sample in row.samples:
            batch = SmolCollator(plan.work.processor, locate=False)([sample])
            labels = batch.pop("labels")
            logits = model.eval()(**batch, use_cache=False).logits[0, :-1]
            nats += float(cross_entropy(logits, labels[0, 1:], reduction="sum"))
            tokens += int((labels[0, 1:] != -100).sum())
    return nats / tokens, tokens


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_is_the_mean_over_labelled_tokens_however_they_are_batched(batch_size, workers, packing):
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    pages = [page.conversation for page in build_pages(14, seed=0, split="train", turns=3)]
    one, two = (
        plan_for(part, processor, rounds=1, lanes=1, pool_size=4 if packing else 1) for part in (pages[:9], pages[9:])
    )
    two.sources[0].name = "validation: others"
    process = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, process_index=0, unwrap_model=lambda model: model,
        reduce=lambda values, reduction: values,
    )  # fmt: skip
    seen = Seen()
    validation = Validation([one, two], workers=workers)
    collator = SmolCollator(processor, packing=packing)
    found = validation.measure(model, process, collator, batch_size, seen)
    with torch.no_grad():
        (first, tokens), (second, others) = (expected_loss(replace(plan, pool_size=1), model) for plan in (one, two))
    assert found["tokens"] == tokens + others and seen.used == 14
    assert found["loss"] == pytest.approx((first * tokens + second * others) / (tokens + others), rel=1e-5)
    assert found["loss/samples"] == pytest.approx(first, rel=1e-5)
    assert found["loss/others"] == pytest.approx(second, rel=1e-5)
    assert set(validation.metrics) == {"loss", "perplexity", "loss/samples", "loss/others"}


def test_the_log_the_console_and_the_facts_have_the_values_of_each_source(tmp_path):
    chat = tmp_path / "talks.jsonl"
    chat.write_text(records(*[[("user", f"Add {n}."), ("assistant", f"It is {n + 1}.")] for n in range(40)]))
    mixture = [{"data": "digits", "name": "pages"}, {"data": str(chat), "name": "talks"}]
    keys = {key: value for key, value in RECIPE.items() if key != "data"}
    words = train_words(tmp_path / "run", **{**keys, "mixture": mixture, "eval_fraction": 0.2, **EVALUATED})
    at = words.index("--data")
    result = call([*words[:at], *words[at + 2 :]])
    assert result.returncode == 0, result.stderr
    last = validations(tmp_path / "run")[-1]
    expected = {
        f"eval_{metric}/{name}" for metric in ("loss", "exact_match", "contains") for name in ("pages", "talks")
    }
    assert expected <= last.keys() and last["eval_answers"] == 5
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["validation"]
    assert facts == {name.removeprefix("eval_"): last[name] for name in last if name.startswith("eval_")}
    assert f"\n  talks: loss {last['eval_loss/talks']:.4f}, exact_match " in result.stdout
    assert f"exact_match {last['eval_exact_match']:.4f}  contains" in result.stdout and "(5 answers)" in result.stdout


def test_a_damaged_image_of_a_validation_is_listed_once(tmp_path):
    parts = [{"type": "image", "image": "page.png"}, {"type": "text", "text": "What?"}]
    damaged = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "It is 1."}]}
    others = records(*[[("user", "What is 1?"), ("assistant", "It is 1.")]] * 9)
    (tmp_path / "eval.jsonl").write_text(json.dumps(damaged) + "\n" + others)
    page = next(iter(build_pages(1, seed=0, split="train"))).conversation.images[0].content
    (tmp_path / "page.png").write_bytes(page[: len(page) * 3 // 4])  # its header is whole
    keys = {"data": write_questions(tmp_path / "my.jsonl", 8), "eval_data": str(tmp_path / "eval.jsonl")}
    stopped = call(train_words(tmp_path / "run", **keys, max_steps=2, **EVALUATED))
    assert stopped.returncode == 1 and "eval.jsonl:1" in stopped.stderr and "Traceback" not in stopped.stderr
    allowed = {"on_bad_sample": "skip", "max_skipped_fraction": 0.5}
    skipped = call(train_words(tmp_path / "other", **keys, **allowed, max_steps=2, **EVALUATED))
    assert skipped.returncode == 0, skipped.stderr
    [entry] = map(json.loads, (tmp_path / "other" / "skipped.jsonl").read_text().splitlines())
    assert (entry["sample"], entry["source"]) == ("eval.jsonl:1", "validation: eval.jsonl")


def test_two_processes_measure_what_one_does(tmp_path):
    keys = {"eval_fraction": 0.3, "max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-6, **EVALUATED}
    assert call(train_words(tmp_path / "one", **keys)).returncode == 0
    words = train_words(tmp_path / "two", **{**keys, "per_device_train_batch_size": 2})
    ranks = [rank.wait() for rank in fork_ranks(2, words, tmp_path)]
    assert [code for code, _ in ranks] == [0, 0], ranks
    one, two = (validations(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for mine, theirs in zip(one, two):
        assert mine["eval_tokens"] == theirs["eval_tokens"] and mine["eval_answers"] == theirs["eval_answers"] == 5
        assert mine["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-4)


class Tracker(TrainerCallback):
    """What a tracker gets."""

    logged: ClassVar[list[dict]] = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.logged.append(dict(logs))


def test_a_tracker_gets_numbers_of_the_validation_or_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr(inherited_checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    keys = {"eval_fraction": 0.3, "max_steps": 1, "warmup_steps": 0, **EVALUATED}
    result = call(train_words(tmp_path / "run", **keys, report_to="tensorboard"))
    assert result.returncode == 0, result.stderr
    [start, step] = [logs for logs in Tracker.logged if "eval_loss" in logs]
    assert {"eval_exact_match", "eval_contains", "eval_perplexity"} <= step.keys() == start.keys()
    assert all(isinstance(value, (int, float)) for value in step.values())
    refused = call(train_words(tmp_path / "other", **keys, report_to="trackio"))
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "report_to: trackio is not installed: install its package, or set report_to: none" in refused.stderr
