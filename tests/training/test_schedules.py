"""Learning rates follow their formula, step by step; weight decay is for matrices."""

import math

import pytest
import torch
import yaml
from helpers import build_processor, plan_for
from modeling.builders import build_vlm

import smol_hf.train as command
from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.log.console import read_log
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.recipes import apply_overrides, parse_command_line, parse_recipe
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.trainer import SmolTrainer

PEAK = 1e-3
WSD = "warmup_stable_decay"
LINEAR_WSD = {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"decay_type": "linear"}}


def warmup_then(after):
    """Of step k, the rate's share of its peak: rising over `warmup` steps, then what `after` says."""
    return lambda k, warmup, steps: k / warmup if k < warmup else after(k, warmup, steps)


def stable_then_linear(decay, lowest=0.0):
    def share(k, warmup, steps):
        return 1.0 if k <= steps - decay else lowest + (1 - lowest) * (steps - k) / decay

    return warmup_then(share)


def cosine(lowest=0.0):
    def share(k, warmup, steps):
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * (k - warmup) / (steps - warmup))) / 2

    return warmup_then(share)


LINEAR = warmup_then(lambda k, warmup, steps: (steps - k) / (steps - warmup))
SCHEDULES = {
    "SmolLM2's": ({**LINEAR_WSD, "decay_steps": 0.2}, stable_then_linear(4)),
    "absolute": ({**LINEAR_WSD, "decay_steps": 5}, stable_then_linear(5)),
    "transformers' key": (
        {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"decay_type": "linear", "num_decay_steps": 10}},
        stable_then_linear(10),
    ),
    "to a tenth": (
        {
            "lr_scheduler_type": WSD,
            "lr_scheduler_kwargs": {"decay_type": "linear", "min_lr_ratio": 0.1},
            "decay_steps": 0.5,
        },
        None,  # the warmup begins at the tenth, too
    ),
    "linear": ({"lr_scheduler_type": "linear"}, LINEAR),
    "cosine": ({"lr_scheduler_type": "cosine"}, cosine()),
    "cosine to a tenth": (
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        cosine(0.1),
    ),
    "constant": ({"lr_scheduler_type": "constant_with_warmup"}, warmup_then(lambda k, warmup, steps: 1.0)),
}  # fmt: skip


def arguments_of(folder, **options):
    return SmolTrainingArguments(
        **{"output_dir": str(folder), "use_cpu": True, "learning_rate": PEAK, "max_steps": 20, "warmup_steps": 3}
        | options
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_each_step_is_that_of_the_formula(name, tmp_path):
    options, share = SCHEDULES[name]
    scheduler = arguments_of(tmp_path, **options).build_schedule(torch.optim.SGD([torch.zeros(1)], lr=PEAK), 20)
    rates = []
    for _ in range(21):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    if share is None:
        below = 0.1 + 0.9 * torch.tensor([0, 1 / 3, 2 / 3])
        after = 0.1 + 0.9 * torch.tensor([min(1.0, (20 - k) / 10) for k in range(3, 21)])
        expected = (PEAK * torch.cat([below, after])).tolist()
    else:
        expected = [PEAK * share(k, 3, 20) for k in range(21)]
    assert rates == pytest.approx(expected, abs=1e-9)


RECIPE = {
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 256,
    },
    "data": "digits", "num_pages": 40, "turns_per_page": 1, "per_device_train_batch_size": 4, "logging_steps": 1,
    "save_strategy": "no", "use_cpu": True, "learning_rate": PEAK, "adam_beta2": 0.95,
}  # fmt: skip


def train(recipe, folder, monkeypatch, *command_line):
    """The trained run's trainer, through the command that people use."""
    path, made = folder / "recipe.yaml", []
    path.write_text(yaml.safe_dump({**recipe, "output_dir": str(folder / "run")}))
    monkeypatch.setattr(command, "write_result", lambda run, trainer, *model: made.append(trainer))
    command.run(["--config", str(path), *command_line], command.ARGUMENT_CLASSES, None)
    return made[0]


def test_the_log_of_a_run_shows_the_schedule(tmp_path, monkeypatch):
    """The rate of step k is the one with which step k was taken. The data decide how many steps there are: ten."""
    recipe = {**RECIPE, "num_train_epochs": 1, "warmup_steps": 2, "lr_scheduler_type": WSD, "decay_steps": 0.2}
    trainer = train(recipe, tmp_path, monkeypatch, "--lr_scheduler_kwargs.decay_type", "linear")
    share = stable_then_linear(2)
    logged = [entry["learning_rate_text"] for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert logged == pytest.approx([PEAK * share(step, 2, 10) for step in range(10)], abs=1e-9)
    assert all(group["betas"] == (0.9, 0.95) for group in trainer.optimizer.param_groups)


def test_a_schedule_that_the_data_are_too_few_for_is_refused(tmp_path, monkeypatch):
    recipe = {**RECIPE, **LINEAR_WSD, "num_train_epochs": 1, "warmup_steps": 5, "decay_steps": 8}
    with pytest.raises(RecipeError, match="a warmup of 5 and a decay of 8 steps do not fit into 10 steps"):
        train(recipe, tmp_path, monkeypatch)


def test_the_command_line_sets_what_a_schedule_takes(tmp_path):
    _, overrides = parse_command_line(["--lr_scheduler_kwargs.num_decay_steps", "10", "--max_steps", "40"])
    recipe = apply_overrides(
        {"preset": "tiny-vlm", "output_dir": str(tmp_path), "use_cpu": True, **LINEAR_WSD}, overrides
    )
    *_, arguments = parse_recipe(recipe)
    assert arguments.lr_scheduler_kwargs == {"decay_type": "linear", "num_decay_steps": 10}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scheduler_type": WSD}, "warmup_stable_decay needs decay_steps, such as 0.2"),
        ({"lr_scheduler_type": "cosine", "decay_steps": 0.2}, "no effect with cosine: set .*warmup_stable_decay"),
        ({"lr_scheduler_type": WSD, "decay_steps": 0}, "decay_steps is 0"),
        ({"lr_scheduler_type": WSD, "decay_steps": 2.5}, "decay_steps is 2.5: give a share of the run below 1, or"),
        (
            {"lr_scheduler_type": WSD, "decay_steps": 5, "lr_scheduler_kwargs": {"num_decay_steps": 5}},
            "exclude each other: give one",
        ),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}},
            r"lr_scheduler_kwargs \{'num_cycle': 1\}: .*unexpected keyword argument 'num_cycle'",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr or min_lr_rate should be set"),
        ({**LINEAR_WSD, "decay_steps": 18}, "a warmup of 3 and a decay of 18 steps do not fit into 20 steps"),
        (
            {"lr_scheduler_type": WSD, "decay_steps": 18, "max_steps": -1, "lr_scheduler_kwargs": {"decay_type": "x"}},
            "decay type: x",
        ),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments_of(tmp_path, **options)


def test_a_trial_that_ends_in_the_warmup_is_none_to_refuse(tmp_path):
    arguments = arguments_of(tmp_path, **LINEAR_WSD, decay_steps=400, warmup_steps=2000, max_steps=2)
    scheduler = arguments.build_schedule(torch.optim.SGD([torch.zeros(1)], lr=PEAK), 2)
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [PEAK / 2000]


def text_model(style):
    gpt = {
        "norm_type": "layer_norm", "position_embedding_type": "learned", "gated_mlp": False, "attention_bias": True,
        "mlp_bias": True,
    }  # fmt: skip
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return SmolHFForCausalLM(
        SmolHFTextConfig(**sizes, num_attention_heads=2, tie_word_embeddings=False, **(gpt if style == "gpt" else {}))
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: text_model("llama"),
        lambda: text_model("gpt"),
        lambda: build_vlm("clip"),  # its class token, and each layer's scale of the next, have no bias or norm's name
        lambda: build_vlm("dinov2"),
    ],
    ids=["llama", "gpt", "clip", "dinov2"],
)
def test_decay_is_for_what_has_two_dimensions(build, tmp_path):
    """nanoGPT's rule. Embeddings and learned positions are such, biases, norms and other vectors are not."""
    processor = build_processor(longest_edge=32)
    trainer = SmolTrainer(
        model=build(),
        args=arguments_of(tmp_path, weight_decay=0.1, save_strategy="no"),
        plan=plan_for([page.conversation for page in build_pages(4, seed=0, split="train")], processor),
        processing_class=processor,
        data_collator=SmolCollator(processor),
    )
    trainer.create_optimizer()
    decayed, spared = (
        [
            weight
            for group in trainer.optimizer.param_groups
            if group["weight_decay"] == rate
            for weight in group["params"]
        ]
        for rate in (0.1, 0.0)
    )
    assert decayed and all(weight.ndim >= 2 for weight in decayed)
    assert spared and all(weight.ndim < 2 for weight in spared)
    assert len(decayed) + len(spared) == len(list(trainer.model.parameters()))
