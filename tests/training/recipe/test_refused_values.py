"""A value of an inherited key that cannot work is refused before the run."""

import math

import pytest

from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES, parse_recipe
from smol_hf.training.recipe.values import RecipeError


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"report_to": "tensorbord"}, "report_to: unknown tracker 'tensorbord': did you mean 'tensorboard'"),
        ({"report_to": ["clearml"]}, "report_to: clearml is not installed"),
        ({"run_name": "first"}, "run_name has no effect without report_to"),
        ({"adam_beta1": 1.5}, "adam_beta1 is 1.5: it must be below 1"),
        ({"weight_decay": -1}, "weight_decay is -1.0: it must be at least 0"),
        ({"max_grad_norm": -1}, "max_grad_norm is -1.0: it must be at least 0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm is nan"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers is -1: it must be at least 0"),
        ({"eval_on_start": True}, "eval_on_start has no effect without eval_strategy"),
        ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 has no effect with optim sgd"),
        ({"optim_args": "momentum=0.9"}, "optim_args momentum=0.9 has no effect with optim adamw_torch_fused"),
        ({"optim": "lomo"}, "optim lomo is not supported"),
        ({"optim": "moun"}, "optim is 'moun': did you mean 'muon'"),
        ({"optim": "schedule_free_sgd"}, "optim schedule_free_sgd: You need to install"),
        ({"lr_scheduler_type": "greedy", "eval_strategy": "steps"}, "lr_scheduler_type greedy is not supported"),
        ({"torch_compile_backend": "nothing"}, "torch_compile_backend or torch_compile_mode: Invalid backend"),
        ({"seed": None}, "seed is null: it needs a value"),
        ({"deepspeed": "nowhere.json"}, "deepspeed: the file nowhere.json does not exist"),
        ({"push_to_hub": True}, "use smol-hf publish <output_dir>/checkpoint OWNER/NAME"),
        (
            {"metric_for_best_model": "accuracy", "save_strategy": "best", "eval_strategy": "steps"},
            "choose one of loss, ",
        ),
        ({"save_strategy": "best", "eval_strategy": "steps"}, "save_strategy best needs metric_for_best_model"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "save_strategy best needs eval_strategy"),
    ],
)
def test_a_value_that_cannot_work_is_one_line_before_the_run(recipe, message):
    with pytest.raises(RecipeError) as refused:
        parse_recipe({"output_dir": "unused", "use_cpu": True, **recipe})
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"push_to_hub": True}, "use smol-hf publish <output_dir>/checkpoint OWNER/NAME"),
        ({"loss_type": ["sigmod"]}, "unknown loss 'sigmod': did you mean 'sigmoid'"),
        ({"label_smoothing": 0.1}, "label_smoothing has no effect without a loss_type of exo_pair, robust"),
        ({"lr_scheduler_kwargs": {"turns": 1}}, "lr_scheduler_kwargs {'turns': 1}: "),
        ({"train_sampling_strategy": "group_by_length"}, "choose random or sequential"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        ({"use_peft": True, "model": "x", "lora_dropout": 0.3}, "lora_dropout 0.3 has no effect"),
        ({"discopop_tau": 0.1}, "discopop_tau has no effect without loss_type: discopop"),
        ({"context_length": 64}, "unknown key 'context_length': it is a key of smol-hf train"),
    ],
)
def test_a_value_that_cannot_work_in_dpo_is_one_line_before_the_run(recipe, message):
    with pytest.raises(RecipeError) as refused:
        parse_recipe({"output_dir": "unused", "use_cpu": True, **recipe}, *[PREFERENCE_CLASSES] * 2)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_key_of_another_command_names_the_command():
    with pytest.raises(RecipeError, match="unknown key 'validation_split': it is a key of smol-hf dpo"):
        parse_recipe({"output_dir": "unused", "validation_split": "test"})
