"""SIGTERM, SIGINT and SIGUSR1: a run finishes its step, saves it, publishes nothing, and goes on exactly."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from random import choice

import pytest
import torch
from processes import Forked, fork_command, fork_ranks
from safetensors.torch import load_file
from tiny_runs import dpo_words, pretrain_words, signal_after, train_words
from torch.distributed import DistNetworkError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from smol_hf import train
from smol_hf.commands.main import main
from smol_hf.training.checkpoint.checkpoints import list_checkpoints, verify
from smol_hf.training.checkpoint.interruption import (
    ONE_SIGNAL,
    SIGNALS,
    Interrupted,
    StopAfterStep,
    handling,
    terminable,
)
from smol_hf.training.log.console import read_log
from smol_hf.training.run import Run
from smol_hf.training.trainer import SmolTrainer

COMMANDS = {
    "train": lambda output, folder, **keys: train_words(output, **keys),
    "pretrain": pretrain_words,
    "dpo": dpo_words,
}
RESUME = ("--resume_from_checkpoint", "true")


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


def weights(output):
    return load_file(output / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("train", signal.SIGTERM, 143), ("train", signal.SIGINT, 130), ("pretrain", signal.SIGUSR1, 138),
     ("dpo", signal.SIGUSR1, 138)],
)  # fmt: skip
def test_a_signal_saves_the_step_and_the_run_goes_on_exactly(command, number, code, tmp_path, capsys):
    build = COMMANDS[command]
    keys = {"max_steps": 30, "save_strategy": "no"}  # nothing would have been saved
    assert main(build(tmp_path / "whole", tmp_path, **keys)) == 0
    capsys.readouterr()
    handlers = [signal.getsignal(each) for each in SIGNALS]
    signal_after(tmp_path / "part", 3, number)
    assert main(build(tmp_path / "part", tmp_path, **keys)) == code
    said = capsys.readouterr().err
    (saved,) = list_checkpoints(tmp_path / "part")
    verify(saved)
    step = int(saved.name.split("-")[1])
    assert 3 <= step < 30
    assert f"{signal.Signals(number).name} stopped the run after step {step} of 30: {saved.name} is saved" in said
    assert "--resume_from_checkpoint true" in said and "Traceback" not in said
    assert not (tmp_path / "part" / "checkpoint").exists(), "an unfinished run publishes nothing"
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert main([*build(tmp_path / "part", tmp_path, **keys), *RESUME]) == 0
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    one, two = weights(tmp_path / "part"), weights(tmp_path / "whole")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_signal_between_two_batches_of_a_step_loses_and_repeats_none_of_them(tmp_path, capsys, monkeypatch):
    keys = {"max_steps": 4, "save_strategy": "no", "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}
    assert main(train_words(tmp_path / "whole", **keys)) == 0
    training_step, batches, samples = SmolTrainer.training_step, itertools.count(1), []

    def signalled(trainer, model, inputs, *more):
        if next(batches) == 5:
            signal.raise_signal(signal.SIGUSR1)
        samples.append(inputs["sample_ids"])
        return training_step(trainer, model, inputs, *more)

    monkeypatch.setattr(SmolTrainer, "training_step", signalled)
    assert main(train_words(tmp_path / "part", **keys)) == 138
    assert "SIGUSR1 stopped the run after step 2 of 4: checkpoint-2 is saved" in capsys.readouterr().err
    assert main([*train_words(tmp_path / "part", **keys), *RESUME]) == 0
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    used = [name for names in samples for name in names]
    assert len(samples) == 12 and len(used) == len(set(used)) == 24


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_before_the_first_step_says_that_nothing_was_saved(number, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smol_hf.training.run.Run.build_model", lambda run: signal.raise_signal(number))
    assert main(train_words(tmp_path / "run")) == code
    name = signal.Signals(number).name
    assert f"{name} stopped the run: no checkpoint was saved in {tmp_path / 'run'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_signal_that_a_launcher_repeats_does_not_disturb_the_end_of_the_run():
    with terminable():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_to_the_group_of_a_run_with_workers_loses_no_sample(tmp_path):
    keys = {"max_steps": 400, "save_strategy": "no", "dataloader_num_workers": 2, "num_pages": 400}
    output = tmp_path / "part"
    process = fork_command(train_words(output, **keys), tmp_path / "printed.txt")
    signal_after(output, 5, signal.SIGTERM, process=-process.pid)  # negative: the whole group
    code, said = process.wait()
    assert code == 143, said
    (saved,) = list_checkpoints(output)
    step = json.loads((saved / "trainer_state.json").read_text())["global_step"]
    states = json.loads((saved / "data_state.json").read_text())["states"]
    assert sum(state["rows"] for state in states.values()) == 4 * step, "no row beyond the step was taken"
    assert json.loads((saved / "counters.json").read_text())["samples"] == 4 * step
    assert not (output / "checkpoint").exists() and "Traceback" not in said


def test_a_signal_to_the_group_of_a_run_on_preferences_with_workers_saves_the_step(tmp_path):
    output = tmp_path / "part"
    keys = {"max_steps": 2000, "save_strategy": "no", "dataloader_num_workers": 1, "num_train_epochs": 1}
    process = fork_command(dpo_words(output, tmp_path, **keys), tmp_path / "printed.txt")
    signal_after(output, 3, signal.SIGTERM, process=-process.pid)
    code, said = process.wait()
    assert code == 143 and "Traceback" not in said, said
    verify(list_checkpoints(output)[0])


def test_signals_to_the_workers_alone_do_not_end_a_run_on_preferences(tmp_path):
    """Each step is an epoch with new workers: a signal may come at any moment of a worker's start."""
    keys = {"max_steps": 40, "save_strategy": "no", "dataloader_num_workers": 2, "per_device_train_batch_size": 8}
    process = fork_command(dpo_words(tmp_path / "run", tmp_path, **keys), tmp_path / "printed.txt")
    signalled = 0
    while process.process.is_alive():
        time.sleep(0.001)
        for child in children_of(process.pid) if (tmp_path / "run/log.jsonl").exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, choice([signal.SIGTERM, signal.SIGUSR1]))
                signalled += 1
    code, said = process.wait()
    assert code == 0 and signalled > 20, said


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    """Under the agent of torchrun, which stops the other process as well once one has ended."""
    output = tmp_path / "run"
    words = train_words(output, max_steps=2000, save_strategy="no", per_device_train_batch_size=2)[1:]
    process = Forked(launch_two, tmp_path / "printed.txt", words, tmp_path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (output / "log.jsonl").exists():
        time.sleep(0.1)
    signal_after(output, 3, signal.SIGTERM, process=int((tmp_path / "rank1").read_text()))
    code, said = process.wait()
    assert code != 0
    (saved,) = list_checkpoints(output)
    verify(saved)
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in saved.iterdir()}
    assert said.count(f"{saved.name} is saved") == 1, said
    assert not (output / "checkpoint").exists()


def children_of(process):
    return map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())


def launch_two(words, folder):
    """Do what torchrun does with two processes, forked: a launch imports everything three times."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", run_id="test",
        start_method="fork", max_restarts=0,
    )  # fmt: skip
    elastic_launch(config, run_rank)(words, folder)


def run_rank(words, folder):
    (folder / f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
    sys.exit(train.main(words))


def main_until_signalled(words):
    """Run a command that waits for a signal before it builds its model."""

    def wait(run):
        print("waits", flush=True)
        time.sleep(600)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
    Run.build_model = wait
    return main(words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_before_the_first_step_is_said_by_it(number, code, tmp_path):
    words = train_words(tmp_path / "run", per_device_train_batch_size=2)
    ranks = fork_ranks(2, words, tmp_path, main_until_signalled)
    for rank in ranks:
        rank.wait_for("waits")
    os.kill(ranks[1].pid, number)
    ended, said = ranks[1].wait(60)
    ranks[0].process.kill()
    ranks[0].process.join()
    expected = f"{signal.Signals(number).name} stopped process 1 of the run on {socket.gethostname()}\n"
    assert ended == code and "Traceback" not in said, said
    assert said.endswith(expected if number != signal.SIGINT else "waits\n"), said


@pytest.mark.parametrize(
    ("second", "pause", "code"),
    [
        (signal.SIGINT, 0.0, 7),
        (signal.SIGINT, ONE_SIGNAL + 0.1, -signal.SIGINT),
        (signal.SIGTERM, ONE_SIGNAL + 0.1, 7),
    ],
)
def test_only_a_second_ctrl_c_stops_at_once(second, pause, code):
    """A launcher passes the first one on at once. A scheduler repeats its signals later, while the run saves."""
    child = os.fork()
    if not child:
        with handling(SIGNALS, StopAfterStep().receive):
            signal.raise_signal(signal.SIGINT)
            time.sleep(pause)
            signal.raise_signal(second)
        os._exit(7)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == code


def test_a_resumed_run_that_a_signal_ends_before_its_first_step_names_the_checkpoint(tmp_path, capsys, monkeypatch):
    assert main(train_words(tmp_path / "run", max_steps=4)) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    monkeypatch.setattr("smol_hf.training.run.Run.build_model", lambda run: signal.raise_signal(2))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
    try:
        assert main([*train_words(tmp_path / "run", max_steps=8), *RESUME]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (
        f"SIGINT stopped the run: the newest checkpoint, {tmp_path / 'run' / 'checkpoint-4'}, is safe"
        in capsys.readouterr().err
    )


def test_a_process_that_loses_another_one_to_the_same_signal_ends_as_the_signal_says(tmp_path, capsys, monkeypatch):
    """At the start of a run, one of them may end before the other has found that both got the signal."""

    def train(trainer, **_):
        signal.raise_signal(signal.SIGTERM)
        raise DistNetworkError("Connection closed by peer")

    monkeypatch.setattr(SmolTrainer, "train", train)
    assert main(train_words(tmp_path / "run", max_steps=4)) == 143
    assert "SIGTERM stopped the run: no checkpoint was saved" in capsys.readouterr().err
