"""Steps and weights that are not finite."""

import json
import math

import pytest
import torch
from tiny_trainers import build_trainer, losses, weights

from smol_hf.data.collator import SmolCollator
from smol_hf.training.log.console import LogCallback, read_log
from smol_hf.training.log.skipped_steps import NonFiniteError


class Poisoned(SmolCollator):
    """Turns the pixels of chosen samples into infinities, as a damaged file or an overflow would."""

    poison: tuple = ()

    def __call__(self, samples):
        batch = super().__call__(samples)
        if {sample.sample_id for sample in samples} & set(self.poison):
            batch["pixel_values"] = torch.full(batch["pixel_values"].shape, math.inf)
        return batch


def sample_order(trainer):
    return [ids for batch in trainer.get_train_dataloader() for ids in [batch["sample_ids"]]]


def poisoned_trainer(folder, bad_steps, **options):
    order = sample_order(build_trainer(folder / "order", turns=3, max_steps=8))
    trainer = build_trainer(folder / "run", turns=3, collator=Poisoned, **options)
    trainer.data_collator.poison = tuple(order[step][0] for step in bad_steps)
    return trainer, order


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "muon"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named(optim, tmp_path):
    trainer, order = poisoned_trainer(tmp_path, bad_steps=[1], max_steps=3, optim=optim)
    seen = []
    inner = trainer._maybe_log_save_evaluate
    trainer._maybe_log_save_evaluate = lambda *a, **k: (seen.append(weights(trainer)), inner(*a, **k))
    trainer.train()
    unchanged = [all(torch.equal(before[n], after[n]) for n in before) for before, after in zip(seen, seen[1:])]
    assert unchanged[:2] == [True, False], "step 2 is skipped, step 3 is not"
    logged = losses(trainer)
    assert math.isfinite(logged[0]) and math.isnan(logged[1]) and math.isfinite(logged[2])
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())
    (line,) = (tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["step"] == 2 and sorted(entry["samples"]) == sorted(order[1])
    assert trainer.state.log_history[-2]["total_skipped_steps"] == 1


def test_a_mean_over_a_window_leaves_the_bad_step_out(tmp_path):
    trainer, _ = poisoned_trainer(tmp_path, bad_steps=[1], max_steps=4, logging_steps=4, logging_first_step=False)
    trainer.train()
    (loss,) = losses(trainer)
    assert math.isfinite(loss) and loss > 1, "neither NaN nor pulled down by a zero"


def test_three_in_a_row_stop_the_run_with_names(tmp_path):
    trainer, order = poisoned_trainer(tmp_path, bad_steps=[1, 2, 3], max_steps=6)
    with pytest.raises(NonFiniteError) as stopped:
        trainer.train()
    assert "step 4" in str(stopped.value) and "3. such step in a row" in str(stopped.value)
    assert all(name in str(stopped.value) for name in order[3])
    two_and_two, _ = poisoned_trainer(tmp_path / "again", bad_steps=[0, 1, 3, 4], max_steps=6)
    two_and_two.train()


def test_a_model_with_broken_weights_is_not_saved(tmp_path):
    trainer = build_trainer(tmp_path, turns=3)
    with torch.no_grad():
        trainer.model.connector.proj.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"1 weight holds NaN or infinity, first connector\.proj\.weight"):
        trainer.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("*.safetensors"))


def test_log_lines_are_json_even_when_a_loss_is_not_a_number(tmp_path):
    trainer, _ = poisoned_trainer(tmp_path, bad_steps=[1])
    trainer.add_callback(LogCallback(tmp_path / "run"))
    trainer.train()
    assert [entry["loss"] for entry in read_log(tmp_path / "run") if "loss" in entry][1] is None
