"""One of two processes of a run dies: the other one ends with a sentence about the newest checkpoint."""

import os
import signal
import time
from pathlib import Path

import pytest
from processes import fork_ranks
from tiny_runs import train_words

WAIT = 60  # seconds; the timeout of a collective is half an hour


def two_processes(folder, **keys):
    """Start a run in two processes, and wait for its first checkpoint."""
    keys = {"max_steps": 20_000, "per_device_train_batch_size": 2, "save_steps": 2, "save_total_limit": 1, **keys}
    ranks = fork_ranks(2, train_words(folder / "run", **keys), folder)
    deadline = time.monotonic() + 100
    while not list((folder / "run").glob("checkpoint-*")):
        assert time.monotonic() < deadline, "no checkpoint was saved"
        time.sleep(0.02)
    return ranks


def workers_of(process):
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_one(killed, tmp_path):
    ranks = two_processes(tmp_path)
    os.kill(ranks[killed].pid, signal.SIGKILL)
    code, said = ranks[1 - killed].wait(WAIT)
    assert code == 1 and "Traceback" not in said, said
    assert "error: this process lost another process of the run (connection " in said
    assert f"The newest checkpoint, {tmp_path / 'run' / 'checkpoint-'}" in said and "is safe: continue with" in said
    assert ranks[killed].wait()[0] == -signal.SIGKILL


def test_a_killed_worker_of_one_process_ends_both(tmp_path):
    ranks = two_processes(tmp_path, dataloader_num_workers=2)
    os.kill(workers_of(ranks[1].pid)[0], signal.SIGKILL)
    (code, said), (code_of_it, said_of_it) = (rank.wait(WAIT) for rank in ranks)
    assert code == code_of_it == 1 and "Traceback" not in said + said_of_it, said + said_of_it
    assert "a data worker process died" in said_of_it and "lower dataloader_num_workers" in said_of_it
    assert "error: this process lost another process of the run (" in said
