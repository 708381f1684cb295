"""The benchmark of training steps beside transformers' Llama."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import model_of_preset
from processes import run_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def siblings_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def load_benchmark():
    specification = importlib.util.spec_from_file_location("text_step", ROOT / "benchmarks" / "text_step.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["text_step"] = module
    specification.loader.exec_module(module)
    return module


def test_all_cases_run_and_the_losses_agree():
    printed = run_script(ROOT / "benchmarks" / "text_step.py", "--quick", "--steps", "1", "--threads", "1")
    figures = json.loads(printed.splitlines()[-1])
    assert figures.keys() == {"device", *load_benchmark().CASES}
    assert figures["gpt-93m"]["tokens_per_second"].keys() == {"smol_hf"}, "Llama has no such model"
    assert all(figures[name]["ratio"] > 0 for name in figures if name not in ("device", "gpt-93m"))


def test_what_needs_a_gpu_is_said_to_be_missing(monkeypatch, capsys):
    benchmark = load_benchmark()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(sys, "argv", ["text_step.py", "--cases", "smollm2-135m-2048"])
    benchmark.main()
    line, figures = capsys.readouterr().out.splitlines()
    assert "there is no GPU" in line and json.loads(figures)["smollm2-135m-2048"] is None


def test_unequal_losses_are_an_error(monkeypatch):
    benchmark = load_benchmark()
    build = benchmark.build_sides

    def changed(*arguments):
        sides = build(*arguments)
        sides["llama"].model.norm.weight.data *= 2
        return sides

    monkeypatch.setattr(benchmark, "build_sides", changed)
    case = benchmark.Case("1m", rows=1, sequence=16, layers=1)
    with pytest.raises(AssertionError, match="step 0: the losses differ"):
        benchmark.measure(case, steps=1, device="cpu")


def test_the_flops_of_a_token():
    """6 for each of 134,515,008 parameters, and in attention 12 for each layer, channel and position."""
    benchmark = load_benchmark()
    model = model_of_preset("smollm2-135m")
    assert benchmark.flops_per_token(model, model.config, 2048) == 6 * 134_515_008 + 12 * 30 * 9 * 64 * 2048
    gpt = model_of_preset("gpt-93m")
    positions = gpt.config.max_position_embeddings * gpt.config.hidden_size
    parameters = sum(weight.numel() for weight in gpt.parameters()) - positions
    assert benchmark.flops_per_token(gpt, gpt.config, 64) == 6 * parameters + 12 * 12 * 768 * 64
