"""The trainer's loss and its counters."""

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers import blind, build_model, build_processor, plan_for, ready
from tiny_trainers import build_trainer, losses, weights
from transformers import TrainerCallback

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.digits import build_pages
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.training.loader import FACTS
from smol_hf.training.model.parts import part_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.trainer import SmolTrainer
from smol_hf.training.validation.measure import Validation


def test_padded_packed_and_accumulated_batches_train_alike(tmp_path):
    runs = {
        "padded": build_trainer(tmp_path / "a", turns=3, blind_every=3),
        "packed": build_trainer(tmp_path / "b", turns=3, packing=True, blind_every=3),
        "accumulated": build_trainer(
            tmp_path / "c", turns=3, per_device_train_batch_size=1, gradient_accumulation_steps=4, blind_every=3
        ),
        "packed and accumulated": build_trainer(
            tmp_path / "d",
            turns=3,
            packing=True,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            blind_every=3,
        ),
    }
    for trainer in runs.values():
        trainer.train()
    expected = runs["padded"]
    for name, trainer in runs.items():
        assert losses(trainer) == pytest.approx(losses(expected), abs=1e-5), name
        for key, weight in weights(trainer).items():
            assert torch.allclose(weight, weights(expected)[key], atol=2e-4), (name, key)


class WithoutLabels(SmolCollator):
    """Batches of which the first `number` have no label."""

    number = 100

    def __call__(self, samples):
        batch = super().__call__(samples)
        if self.number:
            self.number -= 1
            batch["labels"] = torch.full_like(batch["labels"], -100)
            batch["logits_to_keep"] = batch["logits_to_keep"][:0]
        return batch


@pytest.mark.parametrize("steps", [1, 5])
def test_a_run_whose_first_batches_have_no_label_stops(tmp_path, steps):
    trainer = build_trainer(tmp_path, turns=3, collator=WithoutLabels, max_steps=steps, gradient_accumulation_steps=2)
    with pytest.raises(SampleError, match=rf"the first {min(steps, 3)} steps have no token with a label"):
        trainer.train()


def test_a_run_goes_on_where_some_of_the_first_batches_have_labels(tmp_path):
    trainer = build_trainer(tmp_path, turns=3, collator=WithoutLabels, max_steps=4)
    trainer.data_collator.number = 2
    trainer.train()
    assert trainer.state.global_step == 4


def test_a_packed_batch_has_the_gradients_of_the_padded_one():
    processor = build_processor(longest_edge=32)
    model = build_model(processor).train()
    pages = [page.conversation for page in build_pages(9, seed=0, split="train", turns=2)]
    samples = ready([blind(page) if number % 4 == 0 else page for number, page in enumerate(pages)], processor)

    def gradients(packing):
        model.zero_grad()
        loss = model(**SmolCollator(processor, packing=packing)(samples), use_cache=False).loss
        loss.backward()
        return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}

    padded_loss, padded = gradients(packing=False)
    packed_loss, packed = gradients(packing=True)
    assert packed_loss == pytest.approx(padded_loss, abs=1e-5)
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, padded[name], rtol=0, atol=1e-5, msg=name)
    assert sum(gradient.abs().sum() for gradient in packed.values()) > 1


def test_a_packed_run_gives_the_model_no_mask_and_no_cache(tmp_path):
    """Either would let samples of a row see each other, and nothing would say so."""
    trainer = build_trainer(tmp_path, turns=3, packing=True, max_steps=2)
    given, forward = [], trainer.model.forward

    def recorded(*arguments, **inputs):
        given.append((arguments, dict(inputs)))
        return forward(*arguments, **inputs)

    trainer.model.forward = recorded
    trainer.train()
    assert len(given) == 2
    for arguments, inputs in given:
        assert arguments == () and inputs["use_cache"] is False
        assert inputs.get("attention_mask") is None and inputs.get("past_key_values") is None
        positions = inputs["position_ids"][0].tolist()
        assert positions.count(0) == 4, "each of four samples begins anew"
        assert inputs["labels"][0][[place for place, at in enumerate(positions) if at == 0]].eq(-100).all()


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path):
    plain, checkpointed = (
        build_trainer(tmp_path / "a", turns=3),
        build_trainer(tmp_path / "b", turns=3, gradient_checkpointing=True),
    )
    plain.train()
    checkpointed.train()
    assert losses(plain) == pytest.approx(losses(checkpointed), abs=1e-6)


def test_the_books_count_what_the_batches_hold(tmp_path):
    trainer = build_trainer(tmp_path, turns=3, blind_every=4, gradient_accumulation_steps=2)
    batches = []
    collator = trainer.data_collator
    trainer.data_collator = lambda rows: batches.append(collator(rows)) or batches[-1]
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    used = batches
    assert len(batches) == 3 * 2
    assert last["total_tokens"] == sum(int(batch["attention_mask"].sum()) for batch in used)
    assert last["total_trained_tokens"] == sum(int((batch["labels"] != -100).sum()) for batch in used)
    assert last["total_positions"] == sum(batch["input_ids"].numel() for batch in used)
    assert last["total_tiles"] == sum(len(batch.get("pixel_values", ())) for batch in used)
    assert last["total_samples"] == 3 * 4 * 2
    assert last["tokens_per_second"] > last["trained_tokens_per_second"] > 0
    assert 0 < last["trained_token_fraction"] < 1
    assert {"learning_rate_vision", "learning_rate_connector", "learning_rate_text"} <= last.keys()


def test_text_only_steps_touch_the_vision_path_and_leave_it_as_it_is(tmp_path):
    trainer = build_trainer(tmp_path, turns=3, blind_every=1, max_steps=2, weight_decay=0.0)
    before = weights(trainer)
    trainer.train()
    for name, weight in weights(trainer).items():
        if part_of(name) != "text":
            assert torch.equal(weight, before[name]), name


def test_a_sample_found_damaged_while_training_is_named_and_the_run_ends_with_the_data(tmp_path):
    """Also where nothing was left out before: an empty ledger is one."""
    picture = tmp_path / "page.png"
    (page,) = build_pages(1, seed=0, split="train")
    picture.write_bytes(page.conversation.images[0].content)
    conversation = Conversation("mine.jsonl:1", (Message("user", (ImagePart(path=str(picture)), TextPart("What?"))),
                                                 Message("assistant", (TextPart("A page."),))))  # fmt: skip
    processor = build_processor(longest_edge=32)
    skipped = SkippedSamples("skip", max_fraction=1.0, path=tmp_path / "skipped.jsonl")
    picture.write_bytes(picture.read_bytes()[:300])
    trainer = SmolTrainer(
        model=build_model(processor),
        args=SmolTrainingArguments(
            output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=1, logging_steps=1, use_cpu=True,
            save_strategy="no",
        ),
        plan=plan_for([conversation, page.conversation], processor, lanes=1, rounds=1),
        processing_class=processor,
        data_collator=SmolCollator(processor),
        skipped=skipped,
    )  # fmt: skip
    trainer.train()
    assert trainer.skipped is skipped and len(skipped.faults) == 1
    assert [json.loads(line)["sample"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()] == [
        "mine.jsonl:1"
    ]
    first, *rest = losses(trainer)
    assert first > 1 and all(map(math.isnan, rest)) and trainer.state.global_step == 2, "no third step on nothing"
    assert trainer.state.log_history[1]["total_samples"] == 1
    assert not (tmp_path / "skipped_steps.jsonl").exists()


class Weights(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.after = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.after.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))


def test_a_step_without_samples_leaves_the_weights_alone(tmp_path):
    """Momentum and decay would move them, with a loss of nothing."""
    processor = build_processor(longest_edge=32)
    pages = [page.conversation for page in build_pages(5, seed=0, split="train")]
    weights = Weights()
    trainer = SmolTrainer(
        model=build_model(processor),
        args=SmolTrainingArguments(
            output_dir=str(tmp_path), max_steps=20, per_device_train_batch_size=1, use_cpu=True, save_strategy="no",
            learning_rate=1e-2, weight_decay=0.1, lr_scheduler_type="constant",
        ),
        plan=plan_for(pages, processor, lanes=4, rounds=1),
        processing_class=processor,
        data_collator=SmolCollator(processor),
        callbacks=[weights],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 6, "the last to learn that the data ended"
    used = [not torch.equal(before, after) for before, after in zip(weights.after, weights.after[1:])]
    assert sum(used) == 4 and used[-1] is False, "five pages, the first step before the first look"
    assert trainer.counters.gather()["samples"] == 5


def test_validation_makes_logits_of_labelled_positions_alone(tmp_path):
    """The others would be the largest tensor of the pass. The loss is that of all logits."""
    trainer = build_trainer(tmp_path, turns=3, number=4)
    validation = Validation([replace(trainer.plan, rounds=1)])
    seen = []
    head = trainer.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    found = validation.measure(trainer.model, trainer.accelerator, trainer.data_collator, batch_size=4)
    loader = validation.loader(trainer.accelerator, trainer.data_collator, 4)
    total = 0.0
    for kept in list(seen):
        batch = {name: value for name, value in loader.next_batch().items() if name not in FACTS}
        del batch["logits_to_keep"]
        with torch.no_grad():
            outputs = trainer.model.eval()(**batch, use_cache=False, num_items_in_batch=torch.tensor(1))
        assert kept < outputs.logits.shape[1] == batch["labels"].shape[1]
        total += float(outputs.loss)
    assert max(seen) > 0 and found["loss"] == pytest.approx(total / found["tokens"], rel=1e-6)
