"""Every command and every program of the README runs, as written, on tiny inputs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
import yaml
from end_to_end.browser import Served
from helpers import build_model, build_processor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from smol_hf.commands.main import main
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.training.data import open_data
from smol_hf.training.recipe.data_arguments import DataArguments

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAUNCHED = {
    "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    "python": [sys.executable],
}
TINY = {
    "train": ["--max_steps", "2", "--num_train_epochs", "1", "--use_cpu", "true", "--save_strategy", "no"],
    "launch": ["--max_steps", "2", "--use_cpu", "true", "--save_strategy", "no"],
    "pretrain": ["--steps", "3", "--context-length", "64", "--batch-size", "2", "--use_cpu", "--eval_steps", "3"],
    "chat": ["--max-new-tokens", "4"],
    "generate": ["--max-new-tokens", "4"],
    "benchmarks/train_step.py": ["--samples", "2", "--batch-size", "1", "--rounds", "1"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`(python [^`]+)`", README)
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like a checkout after `make demo`, with a checkpoint of a tiny random model in it."""
    place = tmp_path_factory.mktemp("checkout")
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    model.config.text_config.max_position_embeddings = 512  # as the demo's
    publish_checkpoint(place / "runs" / "demo" / "checkpoint", model, processor)
    for name in ("docs", "recipes", "benchmarks"):
        shutil.copytree(ROOT / name, place / name)
    save_published_models(place)
    (place / "my.jsonl").write_text("".join(blocks("json")), encoding="utf-8")
    (place / "corpus.txt").write_text("Once upon a time a model of 3 layers read letters, again and again.\n" * 60)
    (place / "questions.txt").write_text("Which digit is on the left?\nHow many digits are on the page?\n")
    return place


def save_published_models(place):
    """Tiny models of random weights in folders that have the names of the README's Hub ids."""
    text = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    smolvlm = SmolVLMConfig(
        text_config={**text, "model_type": "llama"}, vision_config=vision, scale_factor=2, image_token_id=4
    )
    hub = place / "HuggingFaceTB"
    SmolVLMForConditionalGeneration(smolvlm).save_pretrained(hub / "SmolVLM2-256M-Video-Instruct")
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained(hub / "SmolLM2-135M-Instruct")
    for folder in hub.iterdir():
        build_processor().tokenizer.save_pretrained(folder)
    SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(place / "google" / "siglip-base-patch16-512")


def test_the_readme_shows_its_commands():
    shown = commands()
    assert {line.split()[0] for line in shown} == {"make", "smol-hf", "accelerate", "python"}
    assert len(blocks("python")) == 1 and len(blocks("json")) == 1


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make")])
def test_make_targets_exist(line):
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


SERVED = "smol-hf serve "


@pytest.mark.parametrize("line", [line for line in commands() if not line.startswith(("make", SERVED))])
def test_the_readmes_commands_run(line, place, monkeypatch):
    """smol-hf runs in this process (a test below launches it), other programs in their own."""
    monkeypatch.chdir(place)
    program, *arguments = shlex.split(line)
    if "--output_dir" not in arguments and program == "accelerate":
        arguments += ["--output_dir", "runs/x"]
    counted = "--num_train_epochs" in arguments  # the README says how many steps it makes
    for option in () if counted else ("--max_steps",):
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
    tiny = ["--use_cpu", "true", "--save_strategy", "no"] if counted else TINY.get(arguments[0], [])
    if program == "smol-hf":
        assert main([*arguments, *tiny]) == 0
    else:
        result = subprocess.run([*LAUNCHED[program], *arguments, *tiny], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
    if "--output_dir" in arguments:
        folder = place / arguments[arguments.index("--output_dir") + 1] / "checkpoint"
        assert (folder / "model.safetensors").is_file()
    if counted:
        steps = json.loads((folder.parent / "run.json").read_text())["steps"]
        assert f"The first command makes {steps} steps" in README and steps == 6


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith(SERVED)])
def test_the_readmes_page_is_served(line, place, tmp_path):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    command = [sys.executable, "-m", "smol_hf.commands.main", *shlex.split(line)[1:]]
    served = Served(command, tmp_path / "log", cwd=place)
    try:
        with urlopen(served.address, timeout=60) as answer:
            assert b"gradio" in answer.read()
    finally:
        served.stop()


def test_the_readmes_program_runs(place):
    (program,) = blocks("python")
    result = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Assistant:" in result.stdout


def test_the_readmes_recipe_lines_are_keys_of_recipes():
    from smol_hf.training.recipe.recipes import known_keys

    for block in blocks("yaml"):
        keys = re.findall(r"^(\w+):", block, flags=re.MULTILINE)
        assert keys and set(keys) <= set(known_keys())


def test_the_readmes_mixture_is_one(place, monkeypatch):
    """The README's entries, with a folder of parquet files where it has one."""
    import pyarrow.parquet

    monkeypatch.chdir(place)
    (place / "pages").mkdir()
    rows = [{"images": [], "texts": [{"user": "Hi", "assistant": "Hello."}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "pages" / "0.parquet")
    (block,) = (block for block in blocks("yaml") if "mixture" in block)
    data = open_data(DataArguments(**yaml.safe_load(block)), seed=0)
    assert len(list(data.conversations())) == 3


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
