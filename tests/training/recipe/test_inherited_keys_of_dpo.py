"""Every key that `dpo` inherits and that works has an effect."""

import functools
import json
import tempfile

import pytest
import torch
from chat_models import save_base

from smol_hf.training.log.console import read_log
from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES, parse_recipe
from smol_hf.training.run import train

# Key → options of DPO without it, and with it: the weights after two steps must differ.
CHANGE_A_PREFERENCE = {
    "beta": ({}, {"beta": 0.9}),
    "loss_type": ({}, {"loss_type": ["ipo"]}),
    "loss_weights": ({"loss_type": ["sigmoid", "sft"]}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 9.0]}),
    "label_smoothing": ({"loss_type": ["robust"]}, {"loss_type": ["robust"], "label_smoothing": 0.4}),
    "ld_alpha": ({}, {"ld_alpha": 0.1}),
    "f_divergence_type": ({}, {"f_divergence_type": "forward_kl"}),
    "f_alpha_divergence_coef": (
        {"f_divergence_type": "alpha_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.9},
    ),
    "discopop_tau": ({"loss_type": ["discopop"]}, {"loss_type": ["discopop"], "discopop_tau": 0.9}),
    "use_weighting": ({}, {"use_weighting": True}),
    "sync_ref_model": ({}, {"sync_ref_model": True, "ref_model_sync_steps": 1}),
    "ref_model_sync_steps": (
        {"sync_ref_model": True},
        {"sync_ref_model": True, "ref_model_sync_steps": 1},
    ),
    "ref_model_mixup_alpha": (
        {"sync_ref_model": True, "ref_model_sync_steps": 1},
        {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.1},
    ),
    "data_seed": ({}, {"data_seed": 11}),
    "train_sampling_strategy": ({}, {"train_sampling_strategy": "sequential"}),
    "max_grad_norm": ({}, {"max_grad_norm": 1e-4, "optim": "sgd"}),
    "disable_dropout": ({"use_peft": True}, {"use_peft": True, "disable_dropout": False, "lora_dropout": 0.5}),
    "dataloader_drop_last": (
        {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 3},
        {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 3, "dataloader_drop_last": True},
    ),
}
KEEP_A_PREFERENCE = {
    "precompute_ref_log_probs": {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 1},
    "pad_to_multiple_of": {"pad_to_multiple_of": 16},
    "dataloader_num_workers": {
        "dataloader_num_workers": 1,
        "dataloader_prefetch_factor": 1,
        "dataloader_persistent_workers": True,
        "dataloader_multiprocessing_context": "fork",
    },
}


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


@functools.cache
def untouched(base, options):
    with tempfile.TemporaryDirectory() as folder:
        return weights(preferred(base, folder, **json.loads(options)))


def preferred(base, folder, **options):
    torch.manual_seed(0)
    recipe = {
        "model": str(base), "data": str(base / "pairs.jsonl"), "output_dir": str(folder), "max_steps": 3,
        "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no", "learning_rate": 1e-2, "seed": 0,
        "logging_steps": 1, "lr_scheduler_type": "constant", **options,
    }  # fmt: skip
    arguments = parse_recipe(recipe, PREFERENCE_CLASSES, PREFERENCE_CLASSES)
    return train(recipe, *arguments)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_base(tmp_path_factory.mktemp("base"))
    pairs = [
        {"prompt": f"Number {number}?", "chosen": f"It is {number}.", "rejected": "Nobody knows that" + "!" * number}
        for number in range(4)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


@pytest.mark.parametrize("name", CHANGE_A_PREFERENCE)
def test_a_key_of_dpo_changes_what_is_learned(name, base, tmp_path):
    without, given = CHANGE_A_PREFERENCE[name]
    assert not torch.equal(untouched(base, json.dumps(without)), weights(preferred(base, tmp_path, **given)))


@pytest.mark.parametrize("name", KEEP_A_PREFERENCE)
def test_a_key_of_dpo_that_only_changes_how_it_computes_leaves_the_weights(name, base, tmp_path):
    after = preferred(base, tmp_path, **KEEP_A_PREFERENCE[name])
    assert torch.allclose(untouched(base, "{}"), weights(after), atol=1e-5)
    loader = after.get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers) == ((1, True) if "num_workers" in name else (0, False))
    lengths = {batch["input_ids"].shape[1] % 16 for batch in loader}
    assert (lengths == {0}) == (name == "pad_to_multiple_of")
    assert ("ref_chosen_logps" in after.train_dataset.column_names) == ("precompute" in name)


def test_the_log_of_dpo_has_the_rate_with_which_a_step_was_taken(base, tmp_path):
    preferred(base, tmp_path, lr_scheduler_type="linear")
    rates = [entry["learning_rate"] for entry in read_log(tmp_path) if "loss" in entry]
    assert rates == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
