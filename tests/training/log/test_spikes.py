"""Spikes: steps whose loss or gradient norm is far above the recent ones."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from tiny_trainers import build_trainer, losses, weights

from smol_hf.training.loader import load_data_state
from smol_hf.training.log import skipped_steps
from smol_hf.training.log.processes import refuse_other_strategy
from smol_hf.training.log.skipped_steps import LEAST, SkippedSteps, Step
from smol_hf.training.recipe.recipes import parse_recipe
from smol_hf.training.recipe.values import RecipeError


@pytest.fixture
def judge(tmp_path):
    """Compares steps as a run with the default keys, and records the columns that it counts."""
    counted = []
    arguments = SimpleNamespace(output_dir=tmp_path, spike_policy="flag", spike_threshold=6.0, max_nonfinite_steps=3)
    found = SkippedSteps(arguments, SimpleNamespace(count_step=counted.append), writes=True)
    found.counted = counted
    return found


def listed(folder):
    return [json.loads(line) for line in (folder / "skipped_steps.jsonl").read_text().splitlines()]


def feed(judge, pairs, first=1):
    """The numbers of the steps that are spikes."""
    spikes = []
    for number, (loss, norm) in enumerate(pairs, start=first):
        before = len(judge.counted)
        assert judge.uses(Step(number, loss, norm), [f"sample {number}"])
        spikes += [number] * (len(judge.counted) > before)
    return spikes


def noise(number, loss=2.0, seed=0):
    source = random.Random(seed)
    return [(loss * source.lognormvariate(0, 0.1), source.lognormvariate(0, 0.3)) for _ in range(number)]


def test_noise_and_a_falling_loss_are_no_spikes(judge):
    falling = [(loss * (1 + 3 * 0.97**step), norm) for step, (loss, norm) in enumerate(noise(1000))]
    assert feed(judge, falling) == []


def test_a_constant_loss_has_no_spikes_of_rounding(judge):
    assert feed(judge, [(2.0 + 1e-7 * (step % 50 == 49), 1.0) for step in range(300)]) == []


@pytest.mark.parametrize(("loss", "norm", "name"), [(8.0, 1.0, "loss 8"), (2.0, 50.0, "gradient norm 50")])
def test_a_step_far_above_the_others_is_one(loss, norm, name, judge, tmp_path, capsys):
    assert feed(judge, [*noise(100), (loss, norm), *noise(50, seed=1)]) == [101]
    (entry,) = listed(tmp_path)
    assert entry["step"] == 101 and entry["samples"] == ["sample 101"] and not entry["skipped"]
    assert entry["reason"].startswith(f"{name} is ") and "the mean of the last 100 steps (" in entry["reason"]
    assert capsys.readouterr().out == f"step 101  spike: {entry['reason']}; samples: sample 101\n"


def test_a_step_without_labels_is_not_compared(judge):
    """Its loss is 0, whose logarithm would hide later spikes."""
    assert feed(judge, [*noise(100), (0.0, 0.0), (8.0, 1.0)]) == [102]


def test_a_slightly_higher_value_of_a_very_steady_run_is_no_spike(judge):
    assert feed(judge, [(2.0 + 0.002 * (step % 3), 1.0) for step in range(100)] + [(2.1, 1.5)]) == []


def test_a_low_loss_is_no_spike(judge):
    assert feed(judge, [*noise(100), (0.01, 0.001)]) == []


def test_the_first_steps_are_compared_with_too_few(judge):
    assert feed(judge, [*noise(LEAST - 1), (50.0, 50.0)]) == []
    assert feed(judge, [*noise(LEAST, seed=1), (500.0, 50.0)]) == [LEAST + 1]


def test_a_lasting_rise_is_accepted_after_a_few_steps(judge):
    risen = feed(judge, [*noise(128), *noise(60, loss=9.0, seed=1)])
    assert risen[0] == 129 and 1 < len(risen) <= 5


def test_after_an_unfreezing_the_comparison_begins_anew(judge):
    feed(judge, noise(100))
    judge.forget()
    assert feed(judge, [(2.0, 500.0)] * LEAST) == []


def test_an_incomplete_last_step_is_not_compared(judge):
    """It has fewer samples than the others, so its mean is noisier."""
    feed(judge, noise(100))
    assert judge.uses(Step(101, 50.0, 50.0, complete=False), ["last"]) and judge.counted == []


def spiking(trainer, *steps):
    """Multiply the loss and the gradients of these steps (from 0), as a damaged sample would."""
    inner = trainer.compute_loss
    trainer.compute_loss = lambda *args, **more: (
        inner(*args, **more) * (50 if trainer.state.global_step in steps else 1)
    )
    return trainer


@pytest.fixture
def after_six_steps(monkeypatch):
    monkeypatch.setattr(skipped_steps, "LEAST", 6)
    monkeypatch.setattr(skipped_steps, "WINDOW", 12)


@pytest.mark.parametrize("policy", ["flag", "skip", "off"])
def test_the_policy_decides_about_the_weights(policy, after_six_steps, tmp_path):
    trainer = spiking(build_trainer(tmp_path, max_steps=10, spike_policy=policy), 7)
    seen, inner = [], trainer._maybe_log_save_evaluate
    trainer._maybe_log_save_evaluate = lambda *a, **k: (seen.append(weights(trainer)), inner(*a, **k))
    trainer.train()
    changed = [any(not torch.equal(before[n], after[n]) for n in before) for before, after in zip(seen, seen[1:])]
    assert changed[:9] == [step != 7 or policy != "skip" for step in range(1, 10)]
    last = trainer.state.log_history[-2]
    assert (last["total_spikes"], last["total_skipped_steps"]) == {"flag": (1, 0), "skip": (1, 1), "off": (0, 0)}[
        policy
    ]
    assert all(loss < 10 for loss in losses(trainer)), "the model's own, which the test does not change"
    assert (tmp_path / "skipped_steps.jsonl").exists() == (policy != "off")
    if policy != "off":
        (entry,) = listed(tmp_path)
        assert entry["step"] == 8 and len(entry["samples"]) == 4 and float(entry["loss"]) > 100
        assert entry["skipped"] == (policy == "skip")
        assert "loss" in entry["reason"] and "gradient norm" in entry["reason"]


def test_a_resumed_run_decides_as_the_uninterrupted_one(after_six_steps, tmp_path):
    """The spike follows the checkpoint: only the saved values can tell that it is one."""
    options = {"max_steps": 12, "spike_policy": "skip", "save_strategy": "steps", "save_steps": 8}
    whole = spiking(build_trainer(tmp_path, **options), 8)
    whole.train()
    assert [entry["step"] for entry in listed(tmp_path)] == [9]
    checkpoint = tmp_path / "checkpoint-8"
    resumed = spiking(build_trainer(tmp_path, **options), 8)
    resumed.data_states = load_data_state(checkpoint)[1]
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == losses(whole)
    assert [entry["step"] for entry in listed(tmp_path)] == [9], "it is listed once"
    totals = [trainer.counters.gather() for trainer in (whole, resumed)]
    assert totals[0] == totals[1] and totals[0]["spikes"] == totals[0]["skipped_steps"] == 1
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_unfreezing_is_no_spike(after_six_steps, tmp_path):
    """The norm of the gradients jumps, since the encoder joins."""
    trainer = build_trainer(tmp_path, max_steps=16, unfreeze_vision_at_step=9, vision_learning_rate=1e-3)
    for weight in trainer.model.vision_model.parameters():
        weight.register_hook(lambda gradient: gradient * 1e6)
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert norms[9] > 50 * max(norms[:9]), "or the test shows nothing"
    assert not (tmp_path / "skipped_steps.jsonl").exists()


REFUSED = [
    ({"spike_policy": "drop"}, "spike_policy is 'drop': choose one of flag, skip, off"),
    ({"spike_threshold": 0}, "spike_threshold is 0"),
    ({"spike_policy": "off", "spike_threshold": 4}, "spike_threshold has no effect with spike_policy: off"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_other_values_are_refused(keys, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"preset": "tiny-vlm", "output_dir": str(tmp_path), "use_cpu": True, **keys})


def test_deepspeed_has_changed_the_weights_already(tmp_path, monkeypatch):
    monkeypatch.setattr("smol_hf.training.log.processes.strategy_of", lambda trainer: "DeepSpeed")
    with pytest.raises(RecipeError, match="spike_policy skip is not supported with DeepSpeed"):
        refuse_other_strategy(build_trainer(tmp_path, spike_policy="skip"))
    refuse_other_strategy(build_trainer(tmp_path, spike_policy="flag"))
