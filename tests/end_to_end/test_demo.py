"""`make demo`'s main job, whole: it reaches its score within its time, and its result is what it says."""

import json
import os
import re
import signal
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from processes import call, fork_command
from safetensors.torch import load_file

from smol_hf.commands.main import main
from smol_hf.data.digits import KINDS, evaluation_questions
from smol_hf.demo import isolated_load
from smol_hf.demo.asking import answer_isolated
from smol_hf.training.checkpoint.interruption import Interrupted

WHOLE = "SMOL_HF_WHOLE_DEMO" in os.environ  # `make test-all` runs what `make demo` runs
SHORTER = ["--max-steps", "500", "--questions", "250"]  # answers 54 % of the questions, and 8 % without the image
OPTIONS, SCORE, LEAD = ([], 0.95, 0.3) if WHOLE else (SHORTER, 0.4, 0.1)
FEW_PAGES = ["--num_pages", "200"]  # a tokenizer is trained on the pages, which are drawn for it


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo once, even if two processes of pytest share the tests of this file."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    output, printed = folder / "demo" / "run", folder / "demo.txt"
    with FileLock(folder / "demo.lock"):
        if not printed.exists():
            result = call(["demo", "--output", output, *OPTIONS])
            assert result.returncode == 0, result.stdout + result.stderr
            printed.write_text(result.stdout, encoding="utf-8")
    return output, printed.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def metrics(demo):
    return json.loads((demo[0] / "metrics.json").read_text())


def test_it_reads_held_out_digits_and_is_lost_without_the_picture(metrics):
    assert metrics["questions"] >= (500 if WHOLE else 250)
    assert metrics["exact_match"] >= SCORE
    assert metrics["blind_exact_match"] <= 0.30
    assert set(metrics["per_kind"]) == set(KINDS)
    assert sum(kind["questions"] for kind in metrics["per_kind"].values()) == metrics["questions"]
    for name, kind in metrics["per_kind"].items():
        assert kind["exact_match"] > kind["blind_exact_match"] + LEAD, name


def test_the_metrics_say_what_was_trained(metrics):
    assert metrics["train_seconds"] > 0
    assert metrics["parameters"] < 2_000_000
    assert metrics["seed"] == 0


def test_the_encoder_was_frozen_at_first(demo):
    entries = [json.loads(line) for line in (demo[0] / "log.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate_vision"] for entry in entries if "loss" in entry]
    assert max(rates) > 0
    assert "0.001, from step" in demo[1], "the table says when it unfreezes"


def test_the_report_is_one_file_with_the_score_and_a_gallery(demo, metrics):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['exact_match'] * 100:.1f}%" in page

    class Loads(HTMLParser):
        found: list = []

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href") and value]

    parser = Loads()
    parser.feed(page)
    pictures = [value for value in parser.found if value.startswith("data:image/png")]
    assert len(pictures) >= 20
    assert all(value.startswith(("data:", "#")) for value in parser.found)


def test_the_checkpoint_holds_everything_and_nothing_pickled(demo, metrics):
    folder = demo[0] / "checkpoint"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "chat_template.jinja",
            "generation_config.json", "modeling_smol_hf.py", "processing_smol_hf.py", "README.md",
            "recipe.yaml"} <= names  # fmt: skip
    assert not [name for name in names if Path(name).suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert all(torch.isfinite(weight).all() for weight in load_file(folder / "model.safetensors").values())
    assert f"{metrics['exact_match'] * 100:.1f}" in (folder / "README.md").read_text(encoding="utf-8")


def test_chat_answers_about_a_held_out_page(demo, tmp_path, capsys):
    pages = [page for page in evaluation_questions(40, seed=5) if page.kind == "digit"]
    right = 0
    for index, page in enumerate(pages):
        path = tmp_path / f"{index}.png"
        path.write_bytes(page.conversation.images[0].content)
        assert main(["chat", str(demo[0] / "checkpoint"), "--image", str(path), "--prompt", page.question]) == 0
        answer = capsys.readouterr().out
        assert re.fullmatch(r"\d\n", answer)
        right += answer.strip() == page.answer
    assert right > 0.4 * len(pages)


def test_the_same_seed_gives_the_same_model_and_score(tmp_path, monkeypatch):
    """A short demo, twice: every figure but the time, and every weight, is the same. The answers are given here."""

    def run_here(command, env):
        isolated_load.main(*command[2:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("smol_hf.demo.asking.subprocess.run", run_here)
    results = []
    short = ["--max-steps", "12", "--questions", "20", *FEW_PAGES]
    for name in ("one", "two"):
        assert main(["demo", "--output", str(tmp_path / name), *short]) == 0
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        del metrics["train_seconds"]
        results.append((metrics, load_file(tmp_path / name / "checkpoint" / "model.safetensors")))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(weight, results[1][1][name]) for name, weight in results[0][1].items())


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_sigterm_ends_the_demo_and_its_training(tmp_path):
    output = tmp_path / "run"
    command = ["demo", "--output", output, "--logging_steps", "1", *FEW_PAGES]
    demo = fork_command(command, tmp_path / "printed.txt")
    demo.wait_for("step    1/")
    os.kill(demo.pid, signal.SIGTERM)
    code, printed = demo.wait()
    assert code == 143 and "SIGTERM stopped the run" in printed, printed
    assert not (output / "checkpoint").exists()
    with pytest.raises(ProcessLookupError):  # nothing of its group is left
        os.killpg(demo.pid, 0)


def test_sigterm_ends_the_isolated_process(tmp_path, monkeypatch):
    script, started = tmp_path / "sleeps.py", tmp_path / "started"
    script.write_text(
        f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setattr("smol_hf.demo.isolated_load.__file__", str(script))

    def stop():
        while not (started.is_file() and started.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        answer_isolated(tmp_path, [])
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
