"""Muon for the weights of linear layers and AdamW for the rest, as one optimizer of a real trainer."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from processes import Forked, free_port
from tiny_trainers import build_trainer, losses
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from smol_hf.training.log.processes import refuse_other_strategy
from smol_hf.training.model.parts import FreezeSchedule, parameter_groups
from smol_hf.training.optimizer.muon import USE_MUON, MuonWithAdamW, muon_options, muon_weights
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.recipes import parse_recipe
from smol_hf.training.recipe.values import RecipeError

ADAMW = {"betas": (0.9, 0.95), "eps": 1e-8, "fused": True}


def trainer_with_optimizer(folder, **options):
    trainer = build_trainer(folder, optim="muon", weight_decay=0.1, **options)
    trainer.create_optimizer()
    return trainer


def names_by_group(trainer):
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    return {
        group["name"]: [names[id(weight)] for weight in group["params"]] for group in trainer.optimizer.param_groups
    }


def test_matrices_of_layers_are_for_muon_and_nothing_else(tmp_path):
    trainer = trainer_with_optimizer(tmp_path)
    groups = names_by_group(trainer)
    held = [name for names in groups.values() for name in names]
    assert sorted(held) == sorted(name for name, _ in trainer.model.named_parameters()), "each is in one group"
    layers = {name for name, layer in trainer.model.named_modules() if isinstance(layer, torch.nn.Linear)}
    muon = {name for part in ("vision", "connector", "text") for name in groups[f"{part}_muon"]}
    assert muon == {f"{name}.weight" for name in layers - {"language_model.lm_head"}}
    assert "language_model.model.embed_tokens.weight" in groups["text"]
    assert "vision_model.embeddings.patch_embedding.weight" in groups["vision"]
    for group in trainer.optimizer.param_groups:
        assert group[USE_MUON] == group["name"].endswith("_muon")
        assert group["weight_decay"] == (0 if group["name"].endswith("_no_decay") else 0.1)


def test_an_untied_head_is_for_adamw():
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 4)})
    model.get_output_embeddings = lambda: model["head"]
    assert muon_weights(model) == {"layer.weight"}


def random_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in parameters:
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_it_is_the_two_optimizers_of_torch_also_after_its_state_was_loaded():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 4), (4, 8), (3, 5), (6,))]
    theirs = copy.deepcopy(ours)

    def build():
        groups = [{"params": ours[:2], USE_MUON: True, "lr": 0.02}, {"params": ours[2:], "weight_decay": 0.1}]
        return MuonWithAdamW(groups, lr=1e-2, muon=muon_options("momentum=0.9"), adamw=ADAMW)

    muon = torch.optim.Muon(theirs[:2], lr=0.02, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[2:], lr=1e-2, weight_decay=0.1, **ADAMW)
    optimizer = build()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = build()
            optimizer.load_state_dict(saved)
            schedule.optimizer = optimizer
        for parameters in (ours, theirs):
            random_gradients(parameters, step)
        if step == 4:  # frozen
            ours[0].grad = theirs[0].grad = ours[3].grad = theirs[3].grad = None
        for group, lr in ((muon.param_groups[0], 0.02), (adamw.param_groups[0], 1e-2)):
            group["lr"] = lr / (1 + step)
        for each in (optimizer, muon, adamw):
            each.step()
        schedule.step()
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs)), step


def test_a_scaler_skips_steps_with_overflow_and_scales_the_others_back():
    weights = [torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))]
    groups = [{"params": weights[:1], USE_MUON: True}, {"params": weights[1:]}]
    optimizer = MuonWithAdamW(groups, lr=0.1, muon=muon_options(None), adamw=ADAMW)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor, moves in ((float("inf"), False), (1.0, True)):
        before = [weight.detach().clone() for weight in weights]
        scaler.scale(sum((weight * factor).sum() for weight in weights)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert [not torch.equal(old, new) for old, new in zip(before, weights)] == [moves] * 2
    assert scaler.get_scale() == 512.0
    assert optimizer.state[weights[1]]["exp_avg"].eq(0.1).all(), "the gradient was 1, not 512"


def test_options_reach_muon_and_its_adamw(tmp_path):
    given = "momentum=0.8, nesterov=false, ns_steps=6, adjust_lr_fn=original"
    trainer = trainer_with_optimizer(tmp_path, optim_args=given, adam_beta2=0.9, adam_epsilon=1e-6)
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}
    asked = {"momentum": 0.8, "nesterov": False, "ns_steps": 6, "adjust_lr_fn": "original"}
    assert {name: groups["text_muon"][name] for name in asked} == asked
    assert groups["text"]["betas"] == (0.9, 0.9) and groups["text"]["eps"] == 1e-6 and groups["text"]["fused"]
    assert muon_options(None)["adjust_lr_fn"] == "match_rms_adamw"


REFUSED = [
    ("momentum", "write name=value, separated by commas; muon has momentum, nesterov, ns_steps, adjust_lr_fn"),
    ("beta=0.9", "muon has momentum"),
    ("momentum=high", "could not convert string to float: 'high'"),
    ("nesterov=maybe", "nesterov is 'maybe': it must be true or false"),
    ("ns_steps=0", "ns_steps is 0: it must be from 1 to 99"),
    ("ns_steps=100", "ns_steps is 100: it must be from 1 to 99"),
    ("adjust_lr_fn=mean", "Adjust learning rate function mean is not supported"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_an_option_that_muon_does_not_have_is_refused_before_the_run(options, message):
    with pytest.raises(RecipeError) as refused:
        parse_recipe({"output_dir": "unused", "use_cpu": True, "optim": "muon", "optim_args": options})
    assert str(refused.value).startswith(f"optim muon with optim_args {options}: ") and message in str(refused.value)


def test_the_parts_have_their_rates_and_the_run_learns(tmp_path):
    keys = {"vision_learning_rate": 1e-4, "connector_learning_rate": 1e-3, "learning_rate": 2e-3}
    trainer = build_trainer(tmp_path, optim="muon", max_steps=12, **keys)
    trainer.train()
    rates = {name.removeprefix("learning_rate_"): rate for name, rate in trainer.state.log_history[0].items()
             if name.startswith("learning_rate_")}  # fmt: skip
    assert rates == {"vision": 1e-4, "connector": 1e-3, "text": 2e-3}
    assert losses(trainer)[-1] < 0.9 * losses(trainer)[0]


def test_rows_of_new_tokens_are_for_adamw():
    """A step of Muon changes every row of a matrix, but these are the only rows that train."""
    weight = torch.nn.Parameter(torch.zeros(4, 2))
    rates = {"vision": 0.0, "connector": 0.0, "text": 0.0, "new_tokens": 1e-3}
    schedule = FreezeSchedule(rates, new_token_weights=frozenset({"lm_head.weight"}))
    names = {"lm_head.weight"}
    (group,) = parameter_groups([("lm_head.weight", weight)], names, 0.1, schedule, frozenset(names))
    assert (group["name"], group["weight_decay"], USE_MUON in group) == ("new_tokens_no_decay", 0.0, False)


@pytest.mark.parametrize(
    ("strategy", "optim", "message"),
    [
        ("DEEPSPEED", "muon", "optim muon needs matrices, and DeepSpeed makes them vectors: use FSDP2 or DDP"),
        ("FSDP", "paged_adamw_8bit", "optim paged_adamw_8bit is of bitsandbytes, which cannot update sharded weights"),
    ],
)
def test_an_optimizer_that_a_strategy_breaks_is_refused(strategy, optim, message, tmp_path):
    arguments = SmolTrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True)
    accelerator = SimpleNamespace(distributed_type=DistributedType[strategy], parallelism_config=None)
    with pytest.raises(RecipeError, match=message):
        refuse_other_strategy(SimpleNamespace(args=arguments, accelerator=accelerator))


SHAPES = ((64, 32), (32, 64), (33, 48))


def write_updates_of_shards(path):
    """A step of Muon on matrices whose rows are shared by two processes."""
    torch.distributed.init_process_group("gloo")
    mesh, updates = init_device_mesh("cpu", (2,)), []
    for shape in SHAPES:
        weight = torch.nn.Parameter(distribute_tensor(torch.zeros(shape), mesh, [Shard(0)]))
        weight.grad = distribute_tensor(gradient_of(shape), mesh, [Shard(0)])
        step_of_muon(weight)
        updates.append(weight.detach().full_tensor())
    if torch.distributed.get_rank() == 0:
        torch.save(updates, path)


def gradient_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def step_of_muon(weight):
    groups = [{"params": [weight], USE_MUON: True, "weight_decay": 0.0}]
    MuonWithAdamW(groups, lr=1.0, muon=muon_options(None), adamw=ADAMW).step()
    return weight.detach()


def test_shards_of_a_matrix_are_orthogonalised_together(tmp_path):
    """Not each by itself, which would differ by a half. bfloat16 rounds by some per cent."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        Forked(write_updates_of_shards, tmp_path / f"{rank}.txt", tmp_path / "updates.pt", RANK=str(rank), **shared)
        for rank in range(2)
    ]
    for rank in ranks:
        code, said = rank.wait()
        assert code == 0, said
    for shape, update in zip(SHAPES, torch.load(tmp_path / "updates.pt"), strict=True):
        whole = torch.nn.Parameter(torch.zeros(shape))
        whole.grad = gradient_of(shape)
        difference = update - step_of_muon(whole)
        assert difference.norm() < 0.08 * update.norm(), shape
