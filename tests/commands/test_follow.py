"""`smol-hf runs show --follow`: runs that begin later, end, are interrupted, killed or fail, and a real one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from processes import call, fork_command
from tiny_runs import dpo_words, signal_after, train_words

from smol_hf.training.log import run_log
from smol_hf.training.log.run_log import follow


def entry(step, **more):
    return {"loss": 5 - step / 10, "learning_rate_text": 1e-3, "tokens_per_second": 1234.0, "step": step,
            "max_steps": 100, "seconds_left": 61.0, **more}  # fmt: skip


class Run:
    """The files of a run in the hands of a test."""

    def __init__(self, folder):
        self.folder = folder

    def owner(self, process=None, host=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = {"process": process or os.getpid(), "host": host or socket.gethostname()}
        (self.folder / ".run.json").write_text(json.dumps(owner))

    def leaves(self):
        (self.folder / ".run.json").unlink()

    def logs(self, *entries, name="log.jsonl", end="\n"):
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a") as file:
            file.write("\n".join(map(json.dumps, entries)) + end)

    def resumes(self, *entries):
        (self.folder / "log.jsonl").write_text("")
        self.logs(*entries)

    def saves(self, step):
        (self.folder / f"checkpoint-{step}").mkdir()

    def finishes(self, step):
        (self.folder / "run.json").write_text(json.dumps({"steps": step}))


@pytest.fixture
def played(tmp_path, monkeypatch):
    """What is shown while a run does one thing after each look at it, and nothing after the last."""

    def play(*things, folder="run"):
        run, left, looks = Run(tmp_path / folder), list(things), []

        def sleep(seconds):
            looks.append(seconds)
            assert len(looks) < 100, "it does not end"
            if left:
                left.pop(0)(run)

        monkeypatch.setattr(run_log.time, "sleep", sleep)
        return list(follow(run.folder))

    return play


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_is_followed_from_before_its_start_to_its_end(played, tmp_path):
    spike = {"step": 2, "reason": "loss 9 is far above", "skipped": False, "samples": ["a", "b", "c", "d"]}
    validation = {"eval_loss": 4.0, "eval_perplexity": 54.6, "eval_tokens": 900, "eval_seconds": 2.0, "step": 2}
    shown = played(
        lambda run: run.owner(),
        lambda run: run.logs(entry(1)),
        lambda run: run.logs(entry(2, total_spikes=1, total_skipped_samples=2), end=""),  # not yet complete
        lambda run: (run.logs(spike, name="skipped_steps.jsonl"), run.logs(end="\n")),
        lambda run: (run.logs(validation), run.saves(2)),
        lambda run: run.logs({"train_runtime": 3.0, "step": 2}),
        lambda run: run.finishes(2),
        lambda run: run.leaves(),
    )
    assert shown == [
        f"waiting for a run in {tmp_path / 'run'}",
        f"process {os.getpid()} on {socket.gethostname()} prepares the run",
        "step   1/100  loss 4.9000  lr text 1.0e-03  1.23 k tokens/s  1 min 1 s left",
        "step 2  spike: loss 9 is far above; samples: a; b; c and 1 more",
        "step   2/100  loss 4.8000  lr text 1.0e-03  1.23 k tokens/s  1 min 1 s left  1 spike  2 samples skipped",
        "step 2  validation loss 4.0000  perplexity 54.60  (900 tokens in 2.0 s)",
        "checkpoint-2 is saved",
        "the run ended, after step 2; its newest checkpoint is checkpoint-2",
    ]


ENDS = [
    ([lambda run: (run.logs({"train_runtime": 3.0, "step": 7}), run.saves(7), run.leaves())],
     "a signal interrupted the run, after step 7; its newest checkpoint is checkpoint-7"),
    ([lambda run: run.owner(dead_process())], "the process of the run was killed, after step 7"),
    ([lambda run: run.leaves()], "the run stopped with an error, which its output names, after step 7"),
]  # fmt: skip


@pytest.mark.parametrize(("things", "said"), ENDS, ids=["signal", "kill", "error"])
def test_the_last_line_says_how_a_run_ended(things, said, played):
    *_, last = played(lambda run: run.owner(), lambda run: run.logs(entry(7)), *things)
    assert last == said


def test_a_run_without_its_process_is_given_time_to_show_itself(played):
    """As on a network file system, where a new file is seen late."""
    looks = []
    things = [lambda run, step=step: (run.logs(entry(step)), looks.append(step)) for step in (1, 2)]
    *_, last = played(*things, *[lambda run: looks.append(0)] * 20)
    assert last.startswith("the run stopped") and looks.count(0) == 10


DAMAGED = ["", "{", "5", "[]", "{}", '{"process": "x", "host": "y"}', '{"process": null, "host": "y"}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_of_the_process_does_not_hide_the_end_of_a_run(content, played, tmp_path):
    run, looks = Run(tmp_path / "run"), []
    run.logs(entry(3))
    (run.folder / ".run.json").write_text(content)
    *_, last = played(*[lambda run: looks.append(0)] * 20)
    assert last.startswith("the run stopped") and len(looks) == 9
    run.finishes(3)
    assert played()[-1] == "the run ended, after step 3"


def test_a_file_of_the_process_that_cannot_be_read_for_a_moment_ends_nothing(played):
    shown = played(
        lambda run: run.owner(), lambda run: run.logs(entry(1)),
        lambda run: (run.folder / ".run.json").write_text(""), *[lambda run: None] * 5,
        lambda run: run.owner(), lambda run: run.logs(entry(2)), lambda run: run.finishes(2),
        lambda run: run.leaves(),
    )  # fmt: skip
    assert shown[-2][:10] == "step   2/1" and shown[-1] == "the run ended, after step 2"


@pytest.mark.parametrize("content", ["5", "null", "[]", '"steps"', "{"])
def test_a_damaged_record_of_a_run_is_no_end_of_it(content, played, tmp_path):
    run = Run(tmp_path / "run")
    run.logs(entry(3))
    (run.folder / "run.json").write_text(content)
    assert played()[-1] == "the run stopped with an error, which its output names, after step 3"


def test_a_run_of_another_machine_is_followed(played):
    shown = played(
        lambda run: run.owner(dead_process(), host="elsewhere"), lambda run: run.logs(entry(1)),
        *[lambda run: None] * 30, lambda run: run.logs(entry(2)), lambda run: run.finishes(2),
        lambda run: run.leaves(),
    )  # fmt: skip
    assert [line[:10] for line in shown[2:4]] == ["step   1/1", "step   2/1"] and shown[-1].startswith("the run ended")


def test_a_log_that_a_resumed_run_writes_again_is_not_shown_again(played):
    shown = played(
        lambda run: run.owner(),
        lambda run: run.logs(entry(1), entry(2), entry(3)),
        lambda run: run.resumes(entry(1)),
        lambda run: run.logs(entry(2, loss=7.0)),
        lambda run: run.leaves(),
    )
    assert [line[:24] for line in shown if line.startswith("step")] == [
        "step   1/100  loss 4.900", "step   2/100  loss 4.800", "step   3/100  loss 4.700", "step   2/100  loss 7.000",
    ]  # fmt: skip


def test_the_last_lines_before_are_shown_first(played, tmp_path):
    run = Run(tmp_path / "run")
    run.logs(*(entry(step) for step in range(1, 30)))
    run.saves(20)
    run.saves(3)
    run.finishes(29)
    shown = played()
    assert [line.split("/")[0] for line in shown[:10]] == [f"step  {step}" for step in range(20, 30)]
    assert shown[10:] == [
        "the newest checkpoint is checkpoint-20",
        "the run ended, after step 29; its newest checkpoint is checkpoint-20",
    ]


def test_ctrl_c_ends_the_command_without_a_traceback(tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_log.time, "sleep", interrupt)
    result = call(["runs", "show", tmp_path / "run", "--follow"])
    assert result.returncode == 130 and result.stderr == "" and "waiting for a run in" in result.stdout


def test_what_cannot_be_followed_is_refused(tmp_path):
    for stage in ("one", "two"):
        Run(tmp_path / stage).logs(entry(1))
    several = call(["runs", "show", tmp_path, "--follow"])
    assert several.returncode == 1 and f"name one of {tmp_path / 'one'}, {tmp_path / 'two'}" in several.stderr
    as_json = call(["runs", "show", tmp_path / "one", "--follow", "--json"])
    assert as_json.returncode == 1 and "--follow and --json exclude each other" in as_json.stderr


def test_following_imports_no_library(tmp_path):
    program = (
        "import sys; from smol_hf.training.log.run_log import follow; "
        "print(sorted({'torch', 'transformers', 'numpy', 'accelerate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("ending", ["end", "signal"])
def test_a_real_run_is_followed(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "POLL", 0.05)
    output = tmp_path / "run"
    steps = 8 if ending == "end" else 500
    process = fork_command(train_words(output, max_steps=steps, save_steps=4), tmp_path / "printed.txt")
    if ending == "signal":
        signal_after(output, 6, signal.SIGTERM, process=process.pid)
    result = call(["runs", "show", output, "--follow"])
    code, printed = process.wait()
    assert result.returncode == 0 and code == (0 if ending == "end" else 143), printed
    lines = result.stdout.splitlines()
    own = [line for line in printed.splitlines() if line.startswith("step ")]
    assert [line for line in lines if line.startswith("step ")] == own and len(own) >= 6, "the same lines"
    assert "checkpoint-4 is saved" in lines
    if ending == "end":
        assert "the run ended, after step 8; its newest checkpoint is checkpoint-8" in lines
        assert any(line.startswith(" state") for line in lines), "the summary follows"
    else:
        assert any(line.startswith("a signal interrupted the run, after step ") for line in lines)


def test_a_run_on_preferences_is_followed(tmp_path):
    output = tmp_path / "run"
    result = call([*dpo_words(output, tmp_path, max_steps=2, save_strategy="no")])
    assert result.returncode == 0, result.stderr
    shutil.rmtree(tmp_path / "base")
    lines = call(["runs", "show", output, "--follow"]).stdout.splitlines()
    step, number = lines[1].partition("  loss ")[::2]
    assert step == "step 2/2" and "  margin " in number and "chosen preferred" in number and "  lr " in number
