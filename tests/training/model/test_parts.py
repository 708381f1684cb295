"""Parts, their learning rates and the unfreezing, on a real trainer in this process."""

import pytest
import torch
from helpers import build_model, build_processor
from tiny_trainers import build_trainer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from smol_hf.training.model.parts import FreezeSchedule, count_parameters, part_of, schedule_parts

STEPS, UNFREEZE = 6, 3


def build(folder, **options):
    defaults = {"number": 24, "max_steps": STEPS, "learning_rate": 1e-2, "weight_decay": 0.1}
    return build_trainer(folder, **{**defaults, **options})


class Snapshots:
    """The parameters of each part after each step, taken from the trainer's own hook."""

    def __init__(self, trainer):
        self.weights = []
        self.take(trainer.model)
        inner = trainer._maybe_log_save_evaluate

        def hook(*arguments, **keywords):
            if trainer.state.global_step == len(self.weights):
                self.take(trainer.model)
            return inner(*arguments, **keywords)

        trainer._maybe_log_save_evaluate = hook

    def take(self, model):
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})

    def moved(self, part):
        """For each step, whether any parameter of the part changed."""
        return [
            any(not torch.equal(before[name], after[name]) for name in before if part_of(name) == part)
            for before, after in zip(self.weights, self.weights[1:])
        ]


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "muon", "adamw_8bit"])
def test_the_encoder_moves_exactly_from_the_step_of_its_unfreezing(optim, tmp_path):
    trainer = build(tmp_path, unfreeze_vision_at_step=UNFREEZE, optim=optim)
    snapshots = Snapshots(trainer)
    trainer.train()
    assert snapshots.moved("vision") == [step >= UNFREEZE for step in range(STEPS)]
    assert all(snapshots.moved("connector")) and all(snapshots.moved("text"))
    rates = [entry["learning_rate_vision"] for entry in trainer.state.log_history if "loss" in entry]
    assert [rate > 0 for rate in rates] == [step >= UNFREEZE for step in range(STEPS)], "as the weights moved"


def test_rate_zero_freezes_a_part_for_good_even_from_decay(tmp_path):
    trainer = build(tmp_path, connector_learning_rate=0.0, vision_learning_rate=1e-3)
    snapshots = Snapshots(trainer)
    trainer.train()
    assert not any(snapshots.moved("connector"))
    assert all(snapshots.moved("vision")) and all(snapshots.moved("text"))
    peaks = {group["name"]: group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert peaks == {"vision": 1e-3, "vision_no_decay": 1e-3, "text": 1e-2, "text_no_decay": 1e-2}


def test_every_parameter_is_in_one_group_and_decay_is_for_matrices(tmp_path):
    trainer = build(tmp_path, unfreeze_vision_at_step=UNFREEZE)
    trainer.create_optimizer()
    groups = trainer.optimizer.param_groups
    held = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in trainer.model.parameters())
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    undecayed = {names[id(w)] for group in groups if group["weight_decay"] == 0 for w in group["params"]}
    assert "language_model.model.norm.weight" in undecayed
    assert not any(name.endswith("proj.weight") for name in undecayed)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="learning rate 0"):
        build(tmp_path, learning_rate=0.0).train()


def test_counts_of_parts_cover_the_model():
    processor = build_processor()
    model = build_model(processor)
    FreezeSchedule({"vision": 1.0, "connector": 0.0, "text": 1.0}, unfreeze_vision_at_step=5).apply(model, 0)
    counts = count_parameters(model)
    assert sum(count["total"] for count in counts.values()) == sum(weight.numel() for weight in model.parameters())
    assert counts["connector"]["trainable"] == counts["vision"]["trainable"] == 0
    assert counts["text"]["trainable"] == counts["text"]["total"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "vision"),
        ("module.connector.proj.weight", "connector"),
        ("language_model.model.layers.0.self_attn.q_proj.weight", "text"),
        ("language_model.transformer.connector.weight", "text"),
        ("model.layers.0.mlp.up_proj.weight", "text"),
    ],
)
def test_a_parameters_part_is_where_it_stands(name, part):
    assert part_of(name) == part


def test_the_encoder_warms_up_after_its_unfreezing():
    schedule = FreezeSchedule({"vision": 1.0, "connector": 1.0, "text": 1.0}, 4, vision_warmup_steps=4)
    assert [schedule.factor("vision", step) for step in range(3, 10)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": [weight], "name": name} for weight, name in zip(weights, ("vision", "text"))], lr=2.0
    )
    scheduler = LambdaLR(optimizer, lambda step: 0.5)
    schedule_parts(scheduler, schedule)
    assert scheduler.get_last_lr() == [0.0, 1.0], "already at step 0"
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 1.0]
    with pytest.raises(ValueError, match="depends only on the step"):
        schedule_parts(ReduceLROnPlateau(optimizer), schedule)
