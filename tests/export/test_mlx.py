"""`smol-hf export --to mlx`. With SMOL_HF_MLX (`make test-all`) mlx-vlm and mlx-lm answer and quantise, on the CPU.

The first run builds an environment of 1 GB in `.cache/`.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import venv

import pytest
from chat_models import save_base
from doc_pages import ROOT
from export.test_transformers_serve import seeing  # noqa: F401 - a fixture
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smol_hf.commands.main import main
from smol_hf.estimate.apple import apple_memory
from smol_hf.evaluation.benchmarks.environment import site_folders

PACKAGES = ("mlx[cpu]==0.32.4", "mlx-vlm==0.7.10", "mlx-lm==0.32.2")
with_mlx = pytest.mark.skipif("SMOL_HF_MLX" not in os.environ, reason="set SMOL_HF_MLX=yes")


@pytest.fixture(scope="module")
def python():
    """An interpreter that has MLX and the packages of this one."""
    folder = ROOT / ".cache" / "mlx"
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        venv.create(folder, with_pip=True, clear=True)
        (own,) = folder.glob("lib/python*/site-packages")
        lines = [f"import site; site.addsitedir({each!r})\n" for each in site_folders()]
        (own / "packages_of_smol_hf.pth").write_text("".join(lines))
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "complete").touch()
    return interpreter


@pytest.fixture(scope="module")
def plain(seeing, tmp_path_factory):  # noqa: F811
    """The model without generation settings that MLX does not know."""
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    shutil.copytree(seeing, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    kept = {name: settings[name] for name in ("eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture(scope="module")
def writing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writing")
    save_base(folder, "ours")
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "proj" in name:
            weight.mul_(15)  # with small random weights a tied model repeats its last token
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def smol_hf(python, *words, codes=(0,)):
    command = [python, "-m", "smol_hf.commands.main", *words, "--json"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=offline())
    assert finished.returncode in codes, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def offline():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}


def run_in(python, folder, command):
    """Run a command that `export` printed."""
    words = shlex.split(command)
    assert words[0] == "python"
    finished = subprocess.run([python, *words[1:]], cwd=folder, env=offline(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def bytes_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = file.keys()
        return sum(file.get_tensor(name).nbytes for name in names)


def test_without_mlx_the_folder_is_written_and_not_compared(writing, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(writing), str(tmp_path / "out"), "--to", "mlx", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["comparison"]["not_compared"].startswith("mlx_lm is not installed: pip install mlx-vlm mlx-lm")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert [command.split()[2:4] for command in facts["commands"]] == [
        ["mlx_lm", verb] for verb in ("generate", "convert", "lora", "fuse")
    ]


def test_check_without_mlx_says_that_nothing_was_compared(writing, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = tmp_path / "out"
    assert main(["export", str(writing), str(folder), "--to", "mlx", "--no-compare"]) == 0
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {"bits": 4}}))
    assert main(["check", str(folder), "--source", str(writing)]) == 1
    said = capsys.readouterr()
    assert "mlx_lm is not installed" in said.out and "was not compared with" in said.err


@with_mlx
def test_a_vision_language_model_in_mlx(python, plain, tmp_path):
    """The same tokens, and a quantised folder of the estimated size."""
    facts = smol_hf(python, "export", plain, tmp_path / "out", "--to", "mlx")
    comparison = facts["comparison"]
    assert comparison["equal"] == comparison["equal_prompts"] == comparison["prompts"] == 20, comparison
    assert comparison["difference"] < 1e-3
    generate, convert = facts["commands"]
    picture = ROOT / "docs" / "page.png"
    run_in(python, tmp_path, generate.replace("IMAGE", str(picture)).replace("PROMPT", "What?") + " --max-tokens 4")
    run_in(python, tmp_path, convert)
    assert bytes_of(tmp_path / "out-4bit") == apple_memory(str(plain))["weights"][4]
    # Rounded random weights may give other tokens.
    quantised = smol_hf(python, "check", tmp_path / "out-4bit", "--source", plain, codes=(0, 1))
    assert quantised["engine"] == "MLX" and quantised["equal_prompts"] == 20


@with_mlx
def test_a_text_model_in_mlx(python, writing, tmp_path):
    facts = smol_hf(python, "export", writing, tmp_path / "out", "--to", "mlx")
    comparison = facts["comparison"]
    assert comparison["equal"] == comparison["equal_prompts"] == comparison["prompts"] == 6, comparison
    generate, convert, lora, fuse = facts["commands"]
    run_in(python, tmp_path, generate.replace("PROMPT", "Who?") + " --max-tokens 4")
    run_in(python, tmp_path, convert)
    assert bytes_of(tmp_path / "out-4bit") == apple_memory(str(writing))["weights"][4]
    (tmp_path / "texts").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "texts" / f"{name}.jsonl").write_text('{"text": "Who wrote it?"}\n' * 8)
    words = "--iters 2 --batch-size 2"
    run_in(python, tmp_path, lora.replace("FOLDER", "texts").replace("--num-layers 4", "--num-layers 2 " + words))
    with safe_open(tmp_path / "out-adapter" / "adapters.safetensors", "pt") as file:
        trained = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert trained == apple_memory(str(writing))["lora_parameters"]
    run_in(python, tmp_path, fuse)
    assert json.loads((tmp_path / "out-fused" / "config.json").read_text())["model_type"] == "llama"


@with_mlx
def test_mlx_vlm_still_trains_without_causality(python, plain, tmp_path):
    """The reason for the note of the target. If this test fails, remove the note."""
    assert main(["export", str(plain), str(tmp_path / "out"), "--to", "mlx", "--no-compare"]) == 0
    program = """
import sys
import mlx.core as mx
from mlx_vlm import load
model, processor = load(sys.argv[1])
ids = processor.tokenizer("What is in the picture?")["input_ids"]
first, other = mx.array([ids]), mx.array([[*ids[:-1], ids[0]]])
for mask in (None, mx.ones(first.shape, dtype=mx.int32)):
    logits = [model(row, None, mask=mask).logits[:, :-1] for row in (first, other)]
    print(float(mx.abs(logits[0] - logits[1]).max()))
"""
    command = [python, "-c", program, str(tmp_path / "out")]
    printed = subprocess.run(command, env=offline(), capture_output=True, text=True, check=True).stdout
    without_mask, as_in_training = map(float, printed.split()[-2:])
    assert without_mask == 0 and as_in_training > 1e-3
