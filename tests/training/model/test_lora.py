"""Adapters: trained by recipe, resumed, loaded by PEFT over the base, merged, and exported without a trace of PEFT."""

import json
import shutil
import sys

import pytest
import torch
from adapter_runs import KINDS, adapter_words
from helpers import build_processor
from isolated_runs import run_isolated
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, SmolVLMForConditionalGeneration

from smol_hf import train
from smol_hf.commands.main import main as smol_hf
from smol_hf.conversion.convert import convert
from smol_hf.inference.answering import load_checkpoint
from smol_hf.training.log.console import read_log
from smol_hf.training.model.lora import add_adapters
from smol_hf.training.recipe.model_arguments import ModelArguments


def losses(run):
    return {entry["step"]: entry["loss"] for entry in read_log(run) if "loss" in entry}


def load(folder, **options):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, **options).eval()


def inputs():
    torch.manual_seed(1)
    processor = build_processor(longest_edge=32)
    image, end = processor.image_token_id, len(processor.tokenizer)
    ids = torch.randint(0, end, (2, 24))
    ids[ids == image] = 0
    ids[:, 3:7] = image
    return {"input_ids": ids, "pixel_values": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}


@torch.no_grad()
def logits(model):
    return model(**inputs()).logits


def test_fresh_adapters_change_nothing(base):
    arguments = ModelArguments(model=str(base), use_peft=True, lora_parts=["vision", "connector", "text"], lora_r=4)
    model = load(base)
    before = logits(model)
    rates = dict.fromkeys(("vision", "connector", "text"), 1.0)
    assert torch.equal(logits(add_adapters(model, arguments, rates).eval()), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_over_its_base_is_the_merged_checkpoint(kind, base, trained):
    run = trained(kind)
    assert losses(run)[6] < losses(run)[1]
    adapted = PeftModel.from_pretrained(load(base), run / "adapter").eval()
    expected = logits(adapted)
    assert not torch.allclose(expected, logits(load(base)), atol=1e-2)
    assert torch.allclose(logits(load(run / "checkpoint")), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_adapter_stays_what_it_was(kind, base, trained):
    before = load_file(base / "model.safetensors")
    after = load_file(trained(kind) / "checkpoint" / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    keys = KINDS[kind]
    parts = {"language_model"}
    parts |= {"vision_model"} if "vision" in keys.get("lora_parts", "") or "vision_learning_rate" in keys else set()
    parts |= {"connector"} if "connector" in keys.get("lora_parts", "") or "connector_learning_rate" in keys else set()
    assert {name.split(".")[0] for name in changed} == parts
    assert ("language_model.model.embed_tokens.weight" in changed) == (kind == "a new token")


def test_of_the_embeddings_only_the_named_row_moves(base, trained):
    name = "language_model.model.embed_tokens.weight"
    before = load_file(base / "model.safetensors")[name]
    after = load_file(trained("a new token") / "checkpoint" / "model.safetensors")[name]
    moved = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert moved == [build_processor().tokenizer.convert_tokens_to_ids("<end_of_utterance>")]


@pytest.mark.parametrize("kind", ["dora, connector whole", "encoder whole, unfrozen later", "qlora, connector whole"])
def test_a_run_with_adapters_resumes_exactly(kind, base, trained, tmp_path):
    whole, part = trained(kind), tmp_path / "run"
    shutil.copytree(whole, part)
    for name in ("checkpoint-6", "checkpoint", "adapter"):
        shutil.rmtree(part / name)
    (part / "log.jsonl").unlink()
    assert train.main(adapter_words(base, part, **KINDS[kind], resume_from_checkpoint=True)) == 0
    assert losses(part) == losses(whole)
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, part))
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_trained_whole_beside_quantised_weights_is_not_rounded(trained):
    tensors = load_file(trained("qlora, connector whole") / "adapter" / "adapter_model.safetensors")
    connector = next(tensor for name, tensor in tensors.items() if "connector" in name)
    assert connector.dtype == torch.float32
    assert not torch.equal(connector, connector.bfloat16().float())


def test_transformers_loads_the_adapter_folder_by_itself(base, trained):
    run = trained("lora on all parts")
    expected = logits(load(run / "checkpoint"))
    assert torch.allclose(logits(load(run / "adapter")), expected, atol=1e-5)


ISOLATED = """
import sys
sys.modules["smol_hf"] = None
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
base = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32, trust_remote_code=True)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
with torch.no_grad():
    save_file({"logits": model(**load_file(sys.argv[3])).logits}, sys.argv[4])
"""


def test_base_and_adapter_load_without_the_package(base, trained, tmp_path):
    run = trained("lora on all parts")
    save_file(inputs(), tmp_path / "inputs.safetensors")
    command = [
        sys.executable,
        "-c",
        ISOLATED,
        base,
        run / "adapter",
        tmp_path / "inputs.safetensors",
        tmp_path / "out",
    ]
    finished = run_isolated(list(map(str, command)))
    assert finished.returncode == 0, finished.stderr
    assert torch.allclose(load_file(tmp_path / "out")["logits"], logits(load(run / "checkpoint")), atol=1e-5)


@pytest.mark.parametrize("kind", ["dora, connector whole", "a new token"])
def test_an_adapter_answers_as_its_merged_checkpoint_does(kind, trained):
    run = trained(kind)
    model, processor = load_checkpoint(run / "adapter")
    assert torch.allclose(logits(model), logits(load(run / "checkpoint")), atol=1e-5)
    assert processor.tile_size == 32


def test_merged_and_exported_it_is_a_native_model(trained, tmp_path, capsys):
    run = trained("lora on all parts")
    assert smol_hf(["merge", str(run / "adapter"), str(tmp_path / "merged"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["adapter"] == "LoRA of rank 4" and facts["parameters"]["total"] > 0
    convert(str(tmp_path / "merged"), tmp_path / "native", to="native")
    native = SmolVLMForConditionalGeneration.from_pretrained(tmp_path / "native", dtype=torch.float32).eval()
    ours = load(run / "checkpoint")
    # The native class knows only floats that are normalised already, in one row of tiles for each text.
    arguments = inputs()
    pixels = (arguments["pixel_values"].float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        theirs = native(input_ids=arguments["input_ids"], pixel_values=pixels.unsqueeze(1)).logits
    assert torch.allclose(theirs, logits(ours), atol=1e-4)


def test_the_checkpoints_of_an_adapter_run_hold_no_base_weights(trained):
    names = load_file(trained("lora on the text") / "checkpoint-6" / "adapter_model.safetensors")
    assert names and all(".lora_" in name for name in names)


# Gradient checkpointing ---------------------------------------------------------------------------------------------


def gradients(base, checkpointing, parts):
    model = load(base)
    arguments = ModelArguments(model=str(base), use_peft=True, lora_parts=parts, lora_r=4, lora_dropout=0)
    rates = {part: float(part in parts) for part in ("vision", "connector", "text")}
    torch.manual_seed(3)
    model = add_adapters(model, arguments, rates).train()
    seen = []
    model.get_base_model().connector.register_forward_hook(lambda module, args, output: seen.append(output))
    if checkpointing is not None:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    batch = inputs()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return found, seen[0].requires_grad


def test_a_frozen_encoder_has_no_backward_pass_under_checkpointing(base):
    for checkpointing in (None, False, True):
        _, through_the_encoder = gradients(base, checkpointing, ["text"])
        assert not through_the_encoder


@pytest.mark.parametrize("reentrant", [False, True])
def test_adapters_get_the_same_gradients_under_checkpointing(reentrant, base):
    plain, _ = gradients(base, None, ["vision", "text"])
    checkpointed, _ = gradients(base, reentrant, ["vision", "text"])
    assert any("vision_model" in name for name in plain)
    assert set(plain) == set(checkpointed)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


def test_a_rank_above_the_width_and_an_unfreezing_after_the_end_are_warned_of(base, tmp_path, capsys):
    keys = {"lora_r": 33, "max_steps": 1}
    late = {"vision_learning_rate": 1e-3, "unfreeze_vision_at_step": 1}
    assert train.main(adapter_words(base, tmp_path / "a", **keys, **late)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: lora_r 33 is more than the width of 14 of 14 layers with adapters (the narrowest has 16)" in said
    assert "warning: unfreeze_vision_at_step 1 is not before the end of the run (1 steps)" in said
    late["unfreeze_vision_at_step"], keys["lora_r"], keys["max_steps"] = 1, 16, 2
    assert train.main(adapter_words(base, tmp_path / "b", **keys, **late)) == 0
    assert "warning" not in capsys.readouterr().out
