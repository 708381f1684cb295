"""Every inherited key of a recipe works, or is refused with a reason: none is accepted without effect."""

import functools
import json
import logging
import re
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_trainers import build_trainer
from transformers import training_args
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging as transformers_logging

from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.inherited_keys import INHERITED, inherited_names
from smol_hf.training.recipe.keys import default_of
from smol_hf.training.recipe.recipes import parse_recipe
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import train

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

KEEP_THE_WEIGHTS = (
    {"activation_checkpointing": True},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    {"torch_compile": True, "torch_compile_backend": "eager"},
    {"torch_empty_cache_steps": 1},
    {"full_determinism": True},
    {"logging_strategy": "no"},
    {"disable_tqdm": False},
    {"log_level": "error", "log_level_replica": "error"},
)


@functools.cache
def untouched(options):
    """The weights that a run without the key ends with; `options` as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        return weights(trained(folder, **json.loads(options)))


def build(folder, **options):
    defaults = {"number": 8, "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    return build_trainer(folder, **{**defaults, **options})


def trained(folder, **options):
    trainer = build(folder, **options)
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
    assert not torch.equal(untouched(json.dumps(without)), weights(trained(tmp_path, **given)))


@pytest.mark.parametrize(
    "options",
    KEEP_THE_WEIGHTS,
    ids=lambda options: next(iter(options)),
)
def test_what_only_changes_how_a_run_computes_leaves_its_weights(options, tmp_path):
    try:
        after = trained(tmp_path, **options)
        determinate, level = torch.are_deterministic_algorithms_enabled(), transformers_logging.get_verbosity()
    finally:
        torch.use_deterministic_algorithms(False)
        transformers_logging.set_verbosity_warning()
    assert torch.allclose(untouched("{}"), weights(after), atol=1e-5)
    assert after.model.is_gradient_checkpointing == any("checkpointing" in name for name in options)
    bars = [each for each in after.callback_handler.callbacks if isinstance(each, ProgressCallback)]
    assert bool(bars) == ("disable_tqdm" in options)
    assert determinate == ("full_determinism" in options)
    assert (after.model_wrapped is not after.model) == ("torch_compile" in options)
    assert level == (logging.ERROR if "log_level" in options else logging.WARNING)
    assert steps_logged(after) == ([1] if "logging_strategy" in options else [1, 2])


def test_keys_of_several_processes_reach_accelerate(tmp_path, monkeypatch):
    states, state_class = [], training_args.PartialState
    monkeypatch.setattr(training_args, "PartialState", lambda **given: states.append(given) or state_class())
    options = {"ddp_bucket_cap_mb": 7, "ddp_broadcast_buffers": False}
    for unused in (True, False):
        given = options | {"ddp_find_unused_parameters": unused}
        handler = build(tmp_path, ddp_backend="gloo", ddp_timeout=77, use_cpu=False, **given).accelerator.ddp_handler
        assert {name: getattr(handler, name.removeprefix("ddp_")) for name in given} == given
    assert (states[0]["backend"], states[0]["timeout"].total_seconds()) == ("gloo", 77)


def test_the_mode_of_compilation_reaches_accelerate(tmp_path):
    trainer = build(tmp_path, torch_compile_mode="reduce-overhead", torch_compile_backend="inductor")
    plugin = trainer.accelerator.state.dynamo_plugin
    assert (plugin.backend, plugin.mode) == ("INDUCTOR", "reduce-overhead")


def test_tf32_reaches_torch_and_needs_its_gpu(monkeypatch):
    recipe = {"output_dir": "unused", "tf32": True}
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="tf32 requires Ampere or a newer GPU"):
            parse_recipe(recipe)
    before = torch.backends.fp32_precision
    monkeypatch.setattr(training_args, "is_torch_tf32_available", lambda: True)
    try:
        for value, precision in ((True, "tf32"), (False, "ieee")):
            SmolTrainingArguments(output_dir="unused", tf32=value, bf16=False)
            assert torch.backends.fp32_precision == precision
    finally:
        torch.backends.fp32_precision = before


def validated(folder, **options):
    """Steps at which a run over documents was validated, in order, with the loss, and the trainer."""
    (folder / "story.txt").write_text("".join(f"The fox number {number} waits by the mill.\n" for number in range(99)))
    recipe = {
        "preset": "tiny-text", "documents": str(folder / "story.txt"), "context_length": 32, "max_steps": 4,
        "output_dir": str(folder / "run"), "documents_cache": str(folder), "use_cpu": True, "learning_rate": 3e-3,
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", **options,
    }  # fmt: skip
    trainer = train(recipe, *parse_recipe(recipe))
    return [(each["step"], each["eval_loss"]) for each in trainer.state.log_history if "eval_loss" in each], trainer


def test_the_keys_of_an_evaluation(tmp_path):
    losses, trainer = validated(
        tmp_path, eval_on_start=True, eval_steps=2, eval_delay=3, per_device_eval_batch_size=2, logging_steps=3
    )
    assert [step for step, _ in losses] == [0, 4]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 3, 4]
    assert trainer.args.per_device_eval_batch_size == 2


def test_the_best_checkpoint_is_saved_and_is_what_is_validated_at_the_end(tmp_path):
    options = {"metric_for_best_model": "perplexity", "load_best_model_at_end": True}
    losses, trainer = validated(tmp_path, save_strategy="best", greater_is_better=True, **options)
    assert losses[0][1] > losses[3][1], "the first is the worst, which was asked for"
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert trainer.validated["loss"] == pytest.approx(losses[0][1], abs=1e-5)


def test_without_validation_nothing_is_evaluated(tmp_path):
    recipe = {"output_dir": str(tmp_path), "data": "digits", "num_pages": 4, "preset": "tiny-vlm", "use_cpu": True}
    with pytest.raises(RecipeError, match="eval_strategy steps has nothing to evaluate"):
        train(recipe, *parse_recipe({**recipe, "eval_strategy": "steps", "eval_on_start": True, "max_steps": 1}))


# Keys whose effect other tests look at.
ELSEWHERE = {
    "test_inherited_keys_of_dpo.py": tuple(INHERITED),
    "test_refused_values.py": tuple(INHERITED),
    "test_resume.py": ("save_steps", "resume_from_checkpoint", "seed"),
    "test_documents.py": ("trust_remote_code",),
    "test_documents_refused.py": ("save_total_limit",),
    "test_schedules.py": ("num_train_epochs", "output_dir"),
    "test_precision.py": ("fp16", "use_cpu"),
    "test_preference.py": ("max_length",),
    "test_nonfinite_steps.py": ("logging_first_step",),
    "test_sharded.py": ("fsdp", "fsdp_config"),
}
# Their effect needs several processes, a GPU or the package of a tracker.
NOT_TESTED = {
    "average_tokens_across_devices", "dataloader_pin_memory", "report_to", "run_name", "project",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
}  # fmt: skip


def test_every_key_that_works_is_tested():
    here = Path(__file__)
    files = {path.name: path for path in here.parents[1].rglob("test_*.py")}
    tested = set(NOT_TESTED)
    for name, keys in {**ELSEWHERE, here.name: INHERITED}.items():
        text = files[name].read_text("utf-8").partition("# Keys whose effect")[0]
        tested |= {key for key in keys if re.search(rf"\b{key}\b", text)}
    working = {
        name for command in COMMANDS for name in inherited_names(command) if not getattr(INHERITED[name], command)
    }
    assert working - tested == set()
