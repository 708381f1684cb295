"""The benchmark that adds vision to a language model, shortened, for a character-level nanoGPT."""

import json
import pickle
import runpy

import pytest
import torch
from conversion.test_nanogpt import SIZES, checkpoint, state_dict
from doc_pages import ROOT
from helpers import build_model, build_processor
from processes import run_script

from smol_hf.publishing.checkpoint import publish_checkpoint

TEXT = "To be, or not to be: that is the question.\n" * 100
BENCHMARK = ROOT / "benchmarks" / "add_vision.py"


@pytest.fixture
def model(tmp_path):
    """A nanoGPT that knows no digit, with its meta.pkl."""
    letters = sorted(set(TEXT) | set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?.,: "))
    sizes = {**SIZES, "vocab_size": len(letters), "block_size": 256}
    torch.save(checkpoint(state_dict(True, sizes=sizes), model_args=sizes), tmp_path / "ckpt.pt")
    ids = {letter: number for number, letter in enumerate(letters)}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": ids, "vocab_size": len(ids)}))
    (tmp_path / "text.txt").write_text(TEXT)
    publish_checkpoint(tmp_path / "demo" / "checkpoint", build_model(build_processor()), build_processor())
    return tmp_path / "ckpt.pt"


def test_it_ends_with_the_figures_of_each_share(model, tmp_path):
    words = ["--text", model, "--text-data", tmp_path / "text.txt", "--vision", tmp_path / "demo", "--pages", 12]
    words += ["--asked", 4, "--texts", 10, "--batch-size", 2, "--connector-steps", 2, "--both-steps", 2]
    printed = run_script(BENCHMARK, *words, "--text-share", 0, 0.5)
    result = json.loads(printed.splitlines()[-1])
    assert result["text_share"] == 0.5 and [each["text_share"] for each in result["other_shares"]] == [0]
    assert 0 <= result["blind"] <= 1 and 0 <= result["digits"] <= 1 and result["reached"] is False
    change = result["text_loss_after"] / result["text_loss_before"] - 1
    assert result["text_loss_before"] > 0 and result["text_loss_change"] == pytest.approx(change, abs=1e-3)
    assert "characters added to the tokenizer: " in printed


def test_its_questions_ask_for_digits_that_were_never_trained(tmp_path):
    pages = runpy.run_path(str(BENCHMARK))["pages"]
    train, test = pages(tmp_path, "train", 40), pages(tmp_path, "test", 20)
    assert (len(train), len(test)) == (40, 20)
    assert {each["prompt"] for each in train} == {"Which digit is written here?"}
    assert all(each["caption"] == f"The digit {each['expected']}." for each in train + test)
