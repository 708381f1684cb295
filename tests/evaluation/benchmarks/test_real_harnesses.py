"""The real lmms-eval and lm-eval, in environments that `prepare` builds in `.cache/`, on a few local rows.

`make test-all` runs this file: it sets SMOL_HF_BENCHMARKS. The first run installs about 40 small packages.
"""

import json
import os
import subprocess

import pytest
from doc_pages import ROOT
from evaluation.benchmarks.local_tasks import (
    LM_IMAGE_TASK,
    LM_TASK,
    LMMS_TASK,
    NEW_TOKENS,
    media_rows,
    with_answers,
    write_task,
)
from inference.text_checkpoints import save_text_checkpoint

from smol_hf.evaluation.benchmarks.environment import prepare
from smol_hf.evaluation.benchmarks.run import run_benchmarks
from smol_hf.evaluation.benchmarks.suite import BENCHMARKS
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling

pytestmark = pytest.mark.skipif("SMOL_HF_BENCHMARKS" not in os.environ, reason="set SMOL_HF_BENCHMARKS=yes")


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(ROOT / ".cache"))


def our_answers(checkpoint, rows, chat):
    generator = Generator(*load_checkpoint(checkpoint, device="cpu"), Sampling(max_new_tokens=NEW_TOKENS), chat)
    prompts = [Prompt(row["prompt"], tuple(row.get("images", ())), tuple(row.get("videos", ()))) for row in rows]
    return [answer.text for answer in generator.answers(prompts)]


def samples_of(folder, pattern):
    (path,) = folder.rglob(pattern)
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    given = [sample["filtered_resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    return [answer if isinstance(answer, str) else answer[0] for answer in given]  # lmms-eval has no list of one


def run(checkpoint, task, tmp_path, **options):
    options = {
        "batch_size": 2,
        "device": "cpu",
        "output": tmp_path / "out",
        "tasks_folder": tmp_path / "tasks",
        **options,
    }
    return run_benchmarks(checkpoint, task, **options)["benchmarks"][task]


def test_lmms_eval_gives_our_answers_and_score(tmp_path, vlm):
    """Images, several images, a video and text. Every second reference is our own answer."""
    rows = media_rows(tmp_path)
    answers = our_answers(vlm, rows, chat=True)
    assert len(set(answers)) > 3
    write_task(tmp_path / "tasks", "digits_tiny", LMMS_TASK, with_answers(rows, answers))
    facts = run(vlm, "digits_tiny", tmp_path)
    assert facts == {
        "title": "digits_tiny", "score": 0.5, "samples": len(rows), "answers": len(rows), "too_long": 0,
        "random_choices": 0, "published": None,
    }  # fmt: skip
    given = samples_of(tmp_path / "out", "*_samples_digits_tiny.jsonl")
    assert given == [answer.strip() for answer in answers]
    assert run(vlm, "digits_tiny", tmp_path, limit=3)["samples"] == 3


def test_random_choices_are_seeded_and_counted(tmp_path, vlm):
    """MMMU's parser draws a letter for an answer without one. The model answers with noise."""
    rows = [
        {**row, "answer": "A", "question_type": "multiple-choice", "options": "['one', 'two', 'three']"}
        for row in 4 * media_rows(tmp_path)
    ]
    write_task(tmp_path / "tasks", "mmmu_tiny", LMMS_TASK, rows, score="choice")
    facts = run(vlm, "mmmu_tiny", tmp_path)
    assert facts["random_choices"] > len(rows) // 2
    assert 0 < facts["score"] < 1
    assert run(vlm, "mmmu_tiny", tmp_path) == facts


def test_lm_eval_gives_our_answers_and_score(tmp_path):
    checkpoint = save_text_checkpoint(tmp_path / "checkpoint")
    rows = [{"prompt": f"Which digit is {number}"} for number in range(5)]
    answers = our_answers(checkpoint, rows, chat=False)
    assert len(set(answers)) > 3
    write_task(tmp_path / "tasks", "text_tiny", LM_TASK, with_answers(rows, answers))
    assert run(checkpoint, "text_tiny", tmp_path) == {
        "title": "text_tiny", "score": 0.6, "samples": 5, "published": None,
    }  # fmt: skip
    assert samples_of(tmp_path / "out", "samples_text_tiny_*.jsonl") == answers


def test_lm_eval_shows_images_to_a_checkpoint(tmp_path, vlm):
    """Its own `hf-multimodal`, with the code of the checkpoint."""
    rows = media_rows(tmp_path)[:3]  # an image each
    answers = [answer.strip() for answer in our_answers(vlm, rows, chat=True)]
    assert len(set(answers)) == 3
    write_task(tmp_path / "tasks", "images_tiny", LM_IMAGE_TASK, with_answers(rows, answers))
    model = ["--model", "hf-multimodal", "--device", "cpu", "--apply_chat_template", "--log_samples"]
    model += ["--model_args", f"pretrained={vlm},trust_remote_code=True,max_images=1,dtype=float32"]
    task = ["--tasks", "images_tiny", "--include_path", tmp_path / "tasks", "--output_path", tmp_path / "out"]
    command = [prepare("lm-eval"), "-m", "lm_eval", "run", *model, *task]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    finished = subprocess.run(list(map(str, command)), env=offline, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert [each.strip() for each in samples_of(tmp_path / "out", "samples_images_tiny_*.jsonl")] == answers


@pytest.mark.parametrize("harness, module", [("lmms-eval", "lmms_eval"), ("lm-eval", "lm_eval")])
def test_the_harness_has_our_tasks(harness, module):
    tasks = sorted({task for each in BENCHMARKS.values() if each.harness == harness for task in each.task.split(",")})
    program = f"from {module}.tasks import TaskManager; print(sorted(set({tasks}) - set(TaskManager().all_tasks)))"
    printed = subprocess.run([prepare(harness), "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout.splitlines()[-1] == "[]"


def test_a_failure_of_the_harness_is_one_sentence(tmp_path, vlm):
    write_task(tmp_path / "tasks", "digits_tiny", LMMS_TASK, with_answers(media_rows(tmp_path), "abcdef"))
    (tmp_path / "tasks" / "local_utils.py").write_text("import missing_package_of_a_task\n")
    with pytest.raises(RuntimeError, match="the package missing_package_of_a_task is missing: install it with"):
        run(vlm, "digits_tiny", tmp_path)
