"""What a run of several sources logs of each: its loss, without a second forward pass, and its counters."""

import json

import pytest
import torch
from helpers import blind, build_model, build_processor
from memory_source import MemorySource

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, Message, TextPart
from smol_hf.data.digits import build_pages
from smol_hf.data.mixture.shares import PlannedMixture
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan
from smol_hf.training.log.console import LogCallback
from smol_hf.training.log.lines import losses_in_words
from smol_hf.training.log.mixture_report import load_counters, mixture_facts
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.trainer import SmolTrainer

NAMES = ["words", "pages", "long answers"]
MODALITIES = ["text", "image", "image"]  # of the last, every second sample has no image


def words(number, answer):
    messages = (Message("user", (TextPart(f"Say {number}."),)), Message("assistant", (TextPart(answer),)))
    return Conversation(f"words:{number}", messages)


def three_sources():
    pages = [page.conversation for page in build_pages(24, seed=0, split="train", turns=3)]
    mixed = [each if index % 2 else blind(each) for index, each in enumerate(pages[12:])]
    groups = [[words(number, "one two " * (number % 3 + 1)) for number in range(8)], pages[:12], mixed]
    return [MemorySource(name, [(each.sample_id, each) for each in group]) for name, group in zip(NAMES, groups)]


def build_trainer(folder, *, packing=False, language_model=None, sources=None, **options):
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    sources = sources or three_sources()
    work = SampleWork(processor, 256, [None] * len(sources))
    plan = Plan(sources, [2.0, 1.0, 1.0][: len(sources)], work, 256, lanes=4)
    model = build_model(processor)
    if language_model is not None:
        model.language_model = language_model(len(processor.tokenizer), model.config.text_config.hidden_size)
    defaults = {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 6, "logging_steps": 1,
        "save_strategy": "no", "use_cpu": True, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
    }  # fmt: skip
    planned = PlannedMixture.of_plan(plan)
    return SmolTrainer(
        model=model,
        args=SmolTrainingArguments(**{**defaults, **options}),
        plan=plan,
        mixture=PlannedMixture(
            planned.names, MODALITIES[: len(sources)], planned.rows, planned.records, planned.expected
        ),
        processing_class=processor,
        data_collator=SmolCollator(processor, packing=packing),
    )


def entries(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def llama(vocab_size, hidden_size):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, hidden_size=hidden_size, **sizes))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": True},
        {"packing": True, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
        {"logging_steps": 2, "logging_first_step": False},
        {"language_model": llama, "packing": True, "max_steps": 2},
        {"language_model": llama, "gradient_accumulation_steps": 2, "max_steps": 2},
    ],
    ids=["padded", "packed", "accumulated", "windows", "foreign packed", "foreign padded"],
)
def test_the_sources_losses_add_up_to_the_whole(options, tmp_path):
    trainer = build_trainer(tmp_path, **options)
    forwards = []
    trainer.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    trainer.train()
    steps = trainer.state.global_step * trainer.args.gradient_accumulation_steps
    assert len(forwards) == steps, "no second forward pass"
    before = dict.fromkeys(NAMES, 0)
    for entry in entries(trainer):
        tokens = {name: entry[f"trained_tokens/{name}"] - before[name] for name in NAMES}
        total = sum(entry[f"loss/{name}"] * number for name, number in tokens.items() if number)
        assert total / sum(tokens.values()) == pytest.approx(entry["loss"], abs=1e-4)
        before = {name: entry[f"trained_tokens/{name}"] for name in NAMES}
    for name in ("samples", "tokens", "trained_tokens", "tiles"):
        assert sum(entry[f"{name}/{source}"] for source in NAMES) == entry[f"total_{name}"]
    assert entry["tiles/words"] == 0 < entry["tiles/pages"]


def test_each_loss_is_that_of_the_sources_own_samples(tmp_path):
    trainer = build_trainer(tmp_path, packing=True, max_steps=1)
    model, collator, batches = trainer.model, trainer.data_collator, []
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer.data_collator = lambda samples: batches.append(samples) or collator(samples)
    trainer.train()
    (entry,) = entries(trainer)
    model.load_state_dict(weights)
    sums = torch.zeros(3, 2)
    with torch.no_grad():
        for sample in batches[0]:
            number = int((sample.labels != -100).sum())
            loss = model(**SmolCollator(trainer.processing_class)([sample])).loss
            sums[sample.source] += torch.tensor([float(loss) * number, number])
    expected = sums[:, 0] / sums[:, 1]
    seen = [index for index in range(3) if sums[index, 1]]
    assert len(seen) > 1
    for index in seen:
        assert entry[f"loss/{NAMES[index]}"] == pytest.approx(float(expected[index]), abs=1e-5)


def test_counters_survive_a_resume_and_are_in_the_checkpoint(tmp_path):
    whole = build_trainer(tmp_path / "whole", save_strategy="steps", save_steps=2)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    saved = json.loads((checkpoint / "mixture.json").read_text())
    assert [each["name"] for each in saved["sources"]] == NAMES
    assert sum(each["samples"] for each in saved["sources"]) == 12

    resumed = build_trainer(tmp_path / "whole")
    from smol_hf.training.loader import load_data_state

    resumed.data_states = load_data_state(checkpoint)[1]
    resumed.train(resume_from_checkpoint=str(checkpoint))
    keys = [key for key in entries(whole)[-1] if "/" in key]
    assert {key: entries(resumed)[-1][key] for key in keys} == {key: entries(whole)[-1][key] for key in keys}
    assert load_counters(checkpoint, whole.counters.planned).sum() > 0


def test_shares_and_samples_of_another_modality_are_reported(tmp_path):
    trainer = build_trainer(tmp_path, max_steps=10)
    trainer.train()
    facts = mixture_facts(trainer.counters.planned, trainer.counters)
    by_name = {each["name"]: each for each in facts["sources"]}
    assert by_name["words"]["planned_share"] == pytest.approx(16 / 40)
    assert sum(each["realised_share"] for each in facts["sources"]) == pytest.approx(1)
    assert facts["modalities"]["image"]["planned_share"] == pytest.approx(24 / 40)
    assert facts["modalities"]["text"]["realised_share"] == by_name["words"]["realised_share"]
    assert by_name["words"]["other_modality"] == by_name["pages"]["other_modality"] == 0
    assert 0 < by_name["long answers"]["other_modality"] < by_name["long answers"]["samples"]
    assert by_name["words"]["epoch"] == by_name["words"]["samples"] / 8


def test_one_source_is_not_logged_twice(tmp_path):
    trainer = build_trainer(tmp_path, sources=three_sources()[1:2], max_steps=1)
    trainer.train()
    assert not [key for key in entries(trainer)[0] if "/" in key]


def test_a_dropped_step_is_in_no_loss(tmp_path):
    trainer = build_trainer(tmp_path, max_steps=2, logging_steps=2, logging_first_step=False)
    inner, seen = trainer.counters.close_step, []

    def close(finite):
        seen.append(trainer.counters.step.clone())
        inner(finite and len(seen) == 2)

    trainer.counters.close_step = close
    trainer.train()
    (entry,) = entries(trainer)
    assert entry["loss"] == pytest.approx(float(seen[1][:, 0].sum() / seen[1][:, 1].sum()))


def test_the_line_for_people_shows_a_dozen_sources_at_most(tmp_path):
    logs = {f"loss/{number}": 1.0 for number in range(12)} | {"loss_by_modality/text": 2.0}
    assert losses_in_words(logs).count("1.0000") == 12
    logs["loss/12"] = 1.0
    assert losses_in_words(logs) == "\n  loss of text 2.0000"
    del logs["loss_by_modality/text"]
    assert losses_in_words(logs) == ""


def test_a_model_without_token_losses_still_has_counters(tmp_path):
    """As transformers' own classes have none."""
    trainer = build_trainer(tmp_path, max_steps=2)
    inner = trainer.model.forward

    def forward(**inputs):
        outputs = inner(**inputs)
        outputs.token_losses = None
        return type(outputs)(loss=outputs.loss, logits=outputs.logits)

    trainer.model.forward = forward
    trainer.add_callback(LogCallback(tmp_path))
    trainer.train()
    entry = entries(trainer)[-1]
    assert entry["loss"] > 1 and not [key for key in entry if key.startswith("loss/")]
    assert entry["samples/words"] > 0
