"""What docs/guides/text_models.md shows runs as written, on tiny inputs."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, commands, read_page

from smol_hf.commands.main import build_parser, main
from smol_hf.commands.training import OPTIONS
from smol_hf.support.resources import resource_path
from smol_hf.training.recipe.recipes import known_keys

PAGE = read_page("text_models")
SHOWN = [line for line in commands("text_models") if line.startswith("smol-hf")]
TEXT = "Once upon a time there was a model of 3 layers. It read its letters again and again, and wrote.\n" * 60
SMALL = ["--steps", "3", "--context-length", "64", "--batch-size", "2", "--use_cpu", "--eval_steps", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "corpus.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(here, capsys):
    assert [line.split()[1] for line in SHOWN] == ["pretrain", "generate"]
    for line in SHOWN:
        more = SMALL if "pretrain" in line else ["--max-new-tokens", "4"]
        assert main([*shlex.split(line)[1:], *more]) == 0, (line, capsys.readouterr().err)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"validation_loss"')]
    (result,) = map(json.loads, lines)
    said = re.search(r"one line of JSON: (.*?)\. The result", PAGE, flags=re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", said) == list(result)


def test_the_published_recipe_runs_under_accelerate_launch(here):
    (line,) = re.findall(r"`(accelerate launch [^`]+)`", PAGE)
    words = shlex.split(line)
    words[words.index("--config") + 1] = str(resource_path(words[words.index("--config") + 1]))
    small = {
        "documents": "corpus.txt", "dataset_config": "null", "tokenizer": "null", "preset": "smollm-tiny",
        "text_config": "null", "context_length": "64", "max_steps": "2", "warmup_steps": "0", "eval_steps": "2",
        "validation_fraction": "0.1", "gradient_accumulation_steps": "1", "per_device_train_batch_size": "2",
        "dataloader_num_workers": "0", "torch_compile": "false", "use_cpu": "true", "documents_cache": "caches",
        "global_batch_size": "2",
    }  # fmt: skip
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
    command += [*words[2:], *(f"--{key}={value}" for key, value in small.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = [line for line in done.stdout.splitlines() if line.startswith('{"validation_loss"')]
    assert len(results) == 1 and json.loads(results[0])["steps"] == 2
    assert len(list(Path("caches").glob("*/cache.json"))) == 1


def test_the_benchmark_runs(here):
    """(That of the step has a test of its own.)"""
    shown = re.findall(r"`(python benchmarks/[^`]+)`", PAGE)
    assert [shlex.split(line)[1] for line in shown] == ["benchmarks/text_pretraining.py", "benchmarks/text_step.py"]
    words = shlex.split(shown[0])
    benchmark = runpy.run_path(str(ROOT / words[1]))["main"]
    result = benchmark([*words[2:], *SMALL])
    assert result["bits_per_byte"] > 0 < result["trigram_bits_per_byte"] < 8 and result["steps"] == 3
    compared = ["--optimizers", "adamw", "muon", "--rates", "1e-2", "--seeds", "0"]
    found = benchmark([*words[2:], *SMALL, *compared])["optimizers"]
    assert found["adamw"]["losses"] != found["muon"]["losses"] and len(found["muon"]["same_time"]["losses"]) == 1


def test_options_keys_and_recipes_are_there():
    known = set(build_parser().commands["pretrain"]._option_string_actions)
    assert set(OPTIONS) <= known
    rows = "".join(line for line in PAGE.splitlines(keepends=True) if line.startswith("| `--"))
    assert set(re.findall(r"`(--[\w-]+)", rows)) - {"--dataset_download", "--weight_decay"} <= known
    assert {key for key, _ in OPTIONS.values()} <= set(known_keys())
    for name in re.findall(r"recipes/text/\w+(?:\.\w+)*\.yaml", PAGE):
        assert (ROOT / name).is_file(), name
