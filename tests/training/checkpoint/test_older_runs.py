"""A run that was written before the package was restructured: it resumes, its checkpoint loads and answers.

`run_before_restructuring.tar.xz` holds `digits/`, the output folder of `train_words("runs/digits")` of that time.
"""

import tarfile
from pathlib import Path

import pytest
import torch
from isolated_runs import run_isolated
from PIL import Image
from processes import call
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from smol_hf.conversion.checking.check import check
from smol_hf.conversion.checking.travelling_code import outdated_code
from smol_hf.training.log.console import read_log

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_before_restructuring.tar.xz"


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The folder of the run, at the path that its recipe names."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    monkeypatch.chdir(tmp_path)
    return Path("runs/digits")


def losses(run):
    return {entry["step"]: entry["loss"] for entry in read_log(run) if "loss" in entry}


def test_an_older_run_resumes_with_the_same_losses(digits):
    before, weights = losses(digits), load_file(digits / "checkpoint" / "model.safetensors")
    assert sorted(before) == list(range(1, 9))
    resumed = call(["train", "--config", digits / "recipe.yaml", "--resume_from_checkpoint", "true"])
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from checkpoint-4" in resumed.stdout and "step 5/8" in resumed.stdout
    assert "step 4/8" not in resumed.stdout
    assert losses(digits) == pytest.approx(before, rel=1e-6)
    now = load_file(digits / "checkpoint" / "model.safetensors")
    assert now.keys() == weights.keys()
    assert all(torch.allclose(now[name], weights[name], atol=1e-5) for name in weights)


@torch.no_grad()
def answer(folder):
    """The logits and the generated tokens of a checkpoint for an image and a question."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    image = Image.new("RGB", (32, 32), "grey")
    content = [{"type": "image", "image": image}, {"type": "text", "text": "How many digits are on the page?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    tokens = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    return model(**inputs).logits, tokens


def test_its_checkpoint_loads_with_its_own_code_and_answers(digits, monkeypatch):
    """`check` loads it in a process without the package, with `trust_remote_code`, and compares the answers."""
    monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)
    found = {
        each["name"]: each for each in check((digits / "checkpoint").resolve(), trust_remote_code=True)["findings"]
    }
    assert not found.pop("model code")["good"], "the code of then is another one"
    assert found["loads without smol_hf"]["good"], found["loads without smol_hf"]
    assert all(each["good"] is not False for each in found.values()), found
    logits, tokens = answer(digits / "checkpoint")
    assert logits.isfinite().all() and tokens.shape[1] == logits.shape[1] + 6


def test_its_code_is_renewed_and_it_answers_as_before(digits):
    logits, tokens = answer(digits / "checkpoint")
    assert outdated_code(digits / "checkpoint")
    renewed = call(["convert", digits / "checkpoint", "renewed", "--refresh-code"])
    assert renewed.returncode == 0, renewed.stderr
    assert outdated_code(Path("renewed")) == []
    new_logits, new_tokens = answer("renewed")
    torch.testing.assert_close(new_logits, logits)
    assert torch.equal(new_tokens, tokens)
