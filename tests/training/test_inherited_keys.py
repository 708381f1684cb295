"""Every inherited key of a recipe works, or is refused with a reason: none is accepted without effect."""

import json
import logging

import pytest
import torch
from chat_models import save_base
from helpers import build_model, build_processor, plan_for
from transformers.utils import logging as transformers_logging

from smol_hf.data.collator import SmolCollator
from smol_hf.data.embedded import build_pages
from smol_hf.training import preference
from smol_hf.training.argument_values import default_of
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.inherited_keys import INHERITED, inherited_names
from smol_hf.training.preference_arguments import DPOArguments
from smol_hf.training.recipes import parse_recipe
from smol_hf.training.trainer import SmolTrainer

COMMANDS = {"train": SmolTrainingArguments, "dpo": DPOArguments}
# Key → options without it, and with it: the weights after two steps must differ.
CHANGE_THE_WEIGHTS = {
    "learning_rate": ({}, {"learning_rate": 2e-2}),
    "lr_scheduler_type": ({}, {"lr_scheduler_type": "linear"}),
    "lr_scheduler_kwargs": (
        {"lr_scheduler_type": "cosine_with_restarts"},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
    ),
    "warmup_steps": ({}, {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2}),
    "optim": ({}, {"optim": "sgd"}),
    "optim_args": ({"optim": "sgd"}, {"optim": "sgd", "optim_args": "momentum=0.9"}),
    "weight_decay": ({}, {"weight_decay": 0.5}),
    "adam_beta1": ({}, {"adam_beta1": 0.5}),
    "adam_beta2": ({}, {"adam_beta2": 0.5}),
    "adam_epsilon": ({}, {"adam_epsilon": 0.1}),
    "max_grad_norm": ({}, {"max_grad_norm": 1e-4, "optim": "sgd"}),
    "neftune_noise_alpha": ({}, {"neftune_noise_alpha": 50.0}),
    "gradient_accumulation_steps": ({}, {"gradient_accumulation_steps": 2}),
    "per_device_train_batch_size": ({}, {"per_device_train_batch_size": 3}),
    "max_steps": ({}, {"max_steps": 3}),
    "bf16": ({}, {"bf16": True}),
}


def trained(folder, **options):
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    conversations = [page.conversation for page in build_pages(8, seed=0, split="train", turns=1)]
    defaults = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1,
        "save_strategy": "no", "use_cpu": True, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = SmolTrainer(
        model=build_model(processor),
        args=SmolTrainingArguments(**{**defaults, **options}),
        plan=plan_for(conversations, processor),
        processing_class=processor,
        data_collator=SmolCollator(processor),
    )
    trainer.train()
    return trainer


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def steps_logged(trainer):
    return [entry["step"] for entry in trainer.state.log_history if "loss" in entry]


def other_value(entry):
    """A value of a key that is not its default."""
    default, kind = default_of(entry), str(entry.type)
    if isinstance(default, bool) or "bool" in kind:
        return not default
    if isinstance(default, (int, float)) or "int" in kind or "float" in kind:
        return (default if isinstance(default, (int, float)) else 0) + 3
    if "list[str]" in kind and "str | list" not in kind:
        return ["something"]
    return {"something": 1} if kind.startswith("dict") else "something"


def test_every_inherited_key_is_declared_and_no_other():
    assert set(inherited_names("train")) | set(inherited_names("dpo")) == set(INHERITED)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_key_is_named_with_its_reason(command):
    arguments = COMMANDS[command]
    refused = [name for name in inherited_names(command) if getattr(INHERITED[name], command)]
    assert len(refused) > 50
    for name in refused:
        value = other_value(arguments.__dataclass_fields__[name])
        if value in INHERITED[name].allowed:
            continue
        with pytest.raises(ValueError) as error:
            arguments(output_dir="unused", use_cpu=True, **{name: value})
        assert str(error.value).startswith(f"{name} "), name
        assert getattr(INHERITED[name], command) in str(error.value) or "it must be" in str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_and_what_is_done_anyway_are_accepted(command):
    arguments = COMMANDS[command]
    given = {name: default_of(arguments.__dataclass_fields__[name]) for name in inherited_names(command)}
    arguments(**{**given, "output_dir": "unused", "use_cpu": True})
    for name in inherited_names(command):
        for value in INHERITED[name].allowed:
            arguments(output_dir="unused", use_cpu=True, **{name: value})


@pytest.mark.parametrize("name", CHANGE_THE_WEIGHTS)
def test_a_key_of_the_optimization_changes_what_is_learned(name, tmp_path):
    without, given = CHANGE_THE_WEIGHTS[name]
    before, after = trained(tmp_path / "a", **without), trained(tmp_path / "b", **given)
    assert not torch.equal(weights(before), weights(after))


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"torch_empty_cache_steps": 1},
        {"full_determinism": True},
        {"logging_strategy": "no"},
        {"log_level": "error", "log_level_replica": "error"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_only_changes_how_a_run_computes_leaves_its_weights(options, tmp_path):
    try:
        before, after = trained(tmp_path / "a"), trained(tmp_path / "b", **options)
        determinate, level = torch.are_deterministic_algorithms_enabled(), transformers_logging.get_verbosity()
    finally:
        torch.use_deterministic_algorithms(False)
        transformers_logging.set_verbosity_warning()
    assert torch.allclose(weights(before), weights(after), atol=1e-5)
    assert after.model.is_gradient_checkpointing == any("checkpointing" in name for name in options)
    assert determinate == ("full_determinism" in options)
    assert (after.model_wrapped is not after.model) == ("torch_compile" in options)
    assert level == (logging.ERROR if "log_level" in options else logging.WARNING)
    assert steps_logged(after) == ([1] if "logging_strategy" in options else [1, 2])


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


def preferred(base, folder, **options):
    torch.manual_seed(0)
    recipe = {
        "model": str(base), "data": str(base / "pairs.jsonl"), "output_dir": str(folder), "max_steps": 3,
        "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no", "learning_rate": 1e-2, "seed": 0,
        "logging_steps": 1, "lr_scheduler_type": "constant", **options,
    }  # fmt: skip
    arguments = parse_recipe(recipe, preference.ARGUMENT_CLASSES, preference.ARGUMENT_CLASSES)
    return preference.train(recipe, *arguments)


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
    before, after = preferred(base, tmp_path / "a", **without), preferred(base, tmp_path / "b", **given)
    assert not torch.equal(weights(before), weights(after))


@pytest.mark.parametrize("name", KEEP_A_PREFERENCE)
def test_a_key_of_dpo_that_only_changes_how_it_computes_leaves_the_weights(name, base, tmp_path):
    before, after = preferred(base, tmp_path / "a"), preferred(base, tmp_path / "b", **KEEP_A_PREFERENCE[name])
    assert torch.allclose(weights(before), weights(after), atol=1e-5)
    loader = after.get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers) == ((1, True) if "num_workers" in name else (0, False))
    lengths = {batch["input_ids"].shape[1] % 16 for batch in loader}
    assert (lengths == {0}) == (name == "pad_to_multiple_of")
    assert ("ref_chosen_logps" in after.train_dataset.column_names) == ("precompute" in name)
