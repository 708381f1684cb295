"""bfloat16, float16 with its scaler, TF32, torch.compile, and attention that is not installed."""

import json
import math
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_trainers import build_trainer, losses
from transformers import AutoModelForImageTextToText

from smol_hf.train import main
from smol_hf.training.log.skipped_steps import NonFiniteError
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.recipes import parse_recipe
from smol_hf.training.recipe.values import RecipeError


def skipped_steps(trainer):
    return trainer.counters.gather()["skipped_steps"]


def weights_after_each_step(trainer):
    seen, inner = [], trainer._maybe_log_save_evaluate

    def hook(*arguments, **keywords):
        seen.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
        return inner(*arguments, **keywords)

    trainer._maybe_log_save_evaluate = hook
    return seen


@pytest.fixture
def float16(monkeypatch):
    """Makes a trainer compute as on a GPU with `fp16`: autocast, and a scaler that begins where it is told."""

    def apply(trainer, scale):
        AcceleratorState()  # the trainer has made it
        monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")
        monkeypatch.setattr(trainer.accelerator, "native_amp", True)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return trainer

    return apply


def test_bfloat16_computes_in_it_and_keeps_float32_weights(tmp_path):
    plain, autocast = build_trainer(tmp_path / "a"), build_trainer(tmp_path / "b", bf16=True)
    dtypes = []
    autocast.model.language_model.lm_head.register_forward_hook(lambda *given: dtypes.append(given[-1].dtype))
    plain.train()
    autocast.train()
    assert set(dtypes) == {torch.bfloat16}
    assert {weight.dtype for weight in autocast.model.parameters()} == {torch.float32}
    assert losses(autocast) == pytest.approx(losses(plain), abs=0.02) and losses(autocast) != losses(plain)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "muon"])
def test_a_float16_scaler_finds_its_scale_without_an_alarm(optim, float16, tmp_path):
    """More overflows than `max_nonfinite_steps`: each leaves the weights alone, is counted and stops nothing."""
    trainer = float16(build_trainer(tmp_path, max_steps=16, max_nonfinite_steps=2, optim=optim), scale=2.0**22)
    seen = weights_after_each_step(trainer)
    trainer.train()
    skipped = skipped_steps(trainer)
    assert skipped > 3 and trainer.accelerator.scaler.get_scale() == 2.0 ** (22 - skipped)
    unchanged = [torch.equal(before, after) for before, after in zip(seen, seen[1:])]
    assert unchanged[:15] == [True] * (skipped - 1) + [False] * (16 - skipped)
    assert not (tmp_path / "skipped_steps.jsonl").exists(), "no sample is to blame"
    assert all(map(math.isfinite, losses(trainer))) and losses(trainer)[-1] < losses(trainer)[0]


def test_float16_learns_what_float32_learns(float16, tmp_path):
    plain, scaled = build_trainer(tmp_path / "a"), float16(build_trainer(tmp_path / "b"), scale=2.0**10)
    plain.train()
    scaled.train()
    assert losses(scaled) == pytest.approx(losses(plain), abs=0.02) and losses(scaled) != losses(plain)
    assert skipped_steps(scaled) == 0


def test_with_a_scaler_too_a_loss_that_is_not_finite_stops_the_run(float16, tmp_path):
    trainer = float16(build_trainer(tmp_path, max_steps=6), scale=2.0**10)
    with torch.no_grad():
        trainer.model.connector.proj.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="step 3: loss nan"):
        trainer.train()
    assert len((tmp_path / "skipped_steps.jsonl").read_text().splitlines()) == 3


def test_an_overflow_that_no_scale_explains_counts(float16, tmp_path):
    """At scale 1 there is nothing left to halve away."""
    trainer = float16(build_trainer(tmp_path, max_steps=6), scale=1.0)
    trainer.model.language_model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match=r"3\. such step in a row"):
        trainer.train()


def test_with_a_scaler_too_a_step_without_samples_leaves_the_weights_alone(float16, tmp_path):
    trainer = build_trainer(
        tmp_path,
        number=5,
        plan={"rounds": 1},
        max_steps=20,
        per_device_train_batch_size=1,
        weight_decay=0.1,
    )
    seen = weights_after_each_step(float16(trainer, scale=2.0**10))
    trainer.train()
    used = [not torch.equal(before, after) for before, after in zip(seen, seen[1:])]
    assert trainer.state.global_step == 6 and used[:5] == [True] * 4 + [False]


REFUSED = [
    ({"fp16": True}, "fp16 needs a GPU: use bf16, which also works on a CPU"),
    ({"fp16": True, "bf16": True}, "At most one of fp16 and bf16 can be True"),
    ({"tf32": True}, "tf32 requires Ampere or a newer GPU"),
    ({"attn_implementation": "flash_attention_2"}, "flash-attn .*: install it, or use sdpa, which is part of"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=lambda value: " ".join(value) if value is dict else None)
def test_what_this_machine_does_not_have_is_one_line(keys, message, tmp_path, capsys, monkeypatch):
    """Before the data are looked at: there are none."""
    monkeypatch.setattr("smol_hf.training.recipe.inherited_checks.is_kernels_available", lambda: False)
    words = [f"--{key}={value}" for key, value in keys.items()]
    recipe = ["--preset", "tiny-vlm", "--data", str(tmp_path / "none.jsonl"), "--use_cpu", "true"]
    assert main([*recipe, "--output_dir", str(tmp_path / "run"), *words]) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error")]
    assert message.split(" .*")[0] in line and message.split(".*")[-1] in line
    assert not (tmp_path / "run").exists()


def test_float16_weights_have_nothing_to_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(SmolTrainingArguments, "device", torch.device("cuda"))
    with pytest.raises(RecipeError, match="set dtype: float32"):
        parse_recipe({"preset": "tiny-vlm", "output_dir": str(tmp_path), "fp16": True, "dtype": "float16"})


def test_tf32_can_be_refused_anywhere(tmp_path):
    assert build_trainer(tmp_path, tf32=False).args.tf32 is False


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


RECIPE = {
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 256,
    },
    "data": "digits", "num_pages": 24, "turns_per_page": 1, "per_device_train_batch_size": 4, "logging_steps": 1,
    "max_steps": 4, "save_steps": 2, "use_cpu": True, "learning_rate": 1e-3,
}  # fmt: skip


def command_line(output, **keys):
    words = {**RECIPE, "output_dir": str(output), **keys}
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in words.items()]


def logged(output):
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_compiled_run_is_the_same_run(tmp_path, fresh_compiler):
    """With the backend that generates no code: the same losses, a checkpoint without the compiler's names, and
    going on from the middle of the run, compiled or not."""
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    assert main(command_line(plain)) == 0
    assert main(command_line(compiled, torch_compile=True, torch_compile_backend="aot_eager")) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "something was compiled"
    assert logged(compiled) == pytest.approx(logged(plain), abs=1e-4)
    for folder in ("checkpoint", "checkpoint-2"):
        names = load_file(compiled / folder / "model.safetensors").keys()
        assert names == load_file(plain / folder / "model.safetensors").keys()
    AutoModelForImageTextToText.from_pretrained(compiled / "checkpoint")

    whole = logged(compiled)
    for name in ("checkpoint", "checkpoint-4"):
        shutil.rmtree(compiled / name)
    keys = {"resume_from_checkpoint": True, "torch_compile": True, "torch_compile_backend": "aot_eager"}
    assert main(command_line(compiled, **keys)) == 0
    assert logged(compiled) == pytest.approx(whole, abs=1e-4)
