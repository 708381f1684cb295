"""What a run says about itself on its card."""

import json

import pytest
from huggingface_hub import ModelCard

from smol_hf.publishing.model_card import write_model_card
from smol_hf.publishing.run_facts import run_facts
from smol_hf.training.log.run_record import hardware

RUN = {"train_seconds": 3725.0, "steps": 1200, "seed": 3, "hardware": "4 × NVIDIA H100 80GB HBM3"}
COUNTS = {"total_trained_tokens": 500, "total_samples": 40}
LOG = [
    {"failed_sources": {"gone": "no such file"}},
    {"loss": 5.0, "step": 10, "total_tokens": 1000, **COUNTS},
    {"loss": None, "step": 20, "total_tokens": 2000, **COUNTS},
    {"eval_loss": 2.5, "step": 20},
    {"loss": 1.25, "step": 1200, "total_tokens": 1234567, **COUNTS},
    {"train_loss": 2.0, "step": 1200},
]
SOURCES = [("digits", 0.25), ("someone/pages/en", 0.25), ("charts", 0.25), ("mine.jsonl", 0.25)]
RECIPE = {
    "mixture": [
        {"data": "digits"},
        {"data": "someone/pages", "config": "en"},
        {"data": "hf://datasets/other/charts@v2/train.parquet", "name": "charts"},
        {"data": "/home/me/mine.jsonl"},
    ]
}


@pytest.fixture
def output(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    sources = [{"name": name, "realised_share": share, "samples": 1000} for name, share in SOURCES]
    (tmp_path / "mixture.json").write_text(json.dumps({"sources": sources}))
    return tmp_path


def test_a_run_says_on_what_and_how_long_and_how_well_it_trained(output):
    facts = run_facts(output, RECIPE)["training"]
    assert facts == {
        "Hardware": "4 × NVIDIA H100 80GB HBM3",
        "Time": "1 h 2 min",
        "Steps": "1,200",
        "Tokens": "1,234,567 read, 500 of them trained",
        "Samples": "40",
        "Loss": "5.0000 (step 10) → 1.2500 (step 1,200)",
        "Validation loss": "2.5000 (step 20)",
        "Seed": "3",
    }


def test_the_time_of_a_resumed_run_says_since_when(output):
    (output / "run.json").write_text(json.dumps({**RUN, "resumed_at_step": 1000}))
    assert run_facts(output, RECIPE)["training"]["Time"] == "1 h 2 min since it was resumed at step 1,000"


def test_the_data_are_named_with_the_licences_that_are_known(output, tmp_path):
    facts = run_facts(output, RECIPE)
    digits, hub, file, mine = facts["data_description"].splitlines()[2:]
    assert "UCI" in digits and digits.endswith("| 25.0% | 1,000 | CC BY 4.0 |")
    assert hub.startswith("| [someone/pages/en](https://huggingface.co/datasets/someone/pages) | 25.0% |")
    assert file.startswith("| [charts](https://huggingface.co/datasets/other/charts) ") and "see its page" in file
    assert mine == "| `mine.jsonl` | 25.0% | 1,000 | not known here |"
    path = write_model_card(tmp_path, model_name="m", config={"vocab_size": 3}, parameters={}, **facts)
    card = ModelCard.load(path)
    assert card.data.datasets == ["other/charts", "someone/pages"]
    for line in (digits, hub, file, mine, "| Hardware | 4 × NVIDIA H100 80GB HBM3 |", "| Time | 1 h 2 min |"):
        assert line in card.text


def test_what_was_not_written_down_is_left_out(output):
    (output / "run.json").write_text("{}")
    (output / "log.jsonl").write_text("")
    facts = run_facts(output, {"data": "mine.jsonl", "mixture": None})
    assert facts["training"] == {} and facts["datasets"] is None


def test_this_machine_has_a_name():
    assert any(word in hardware() for word in ("cores)", "NVIDIA", "AMD"))
