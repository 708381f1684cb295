"""The output folder of a run: a lock, and what is said when the disk, the memory or a worker ends the run."""

import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import Forked, fork_ranks
from tiny_runs import dpo_words, pretrain_words, train_words
from torch.distributed import DistBackendError

from smol_hf.commands.main import main
from smol_hf.data.stream.lane import Lane
from smol_hf.training.checkpoint import run_folder as module
from smol_hf.training.checkpoint.run_folder import LOCK, OWNER, RunError, locked, run_folder


def hold(output):
    with locked(output):
        print("locked", flush=True)
        time.sleep(600)


def test_a_second_run_is_refused_and_a_dead_owner_is_not_waited_for(tmp_path, capsys):
    output = tmp_path / "run"
    owner = Forked(hold, tmp_path / "printed.txt", output)
    owner.wait_for("locked\n")
    for words in (
        train_words(output),
        pretrain_words(output, tmp_path),
        dpo_words(output, tmp_path),
        [*train_words(output), "--resume_from_checkpoint", "true"],
    ):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert f"{output} is in use by another run (process {owner.pid} on {os.uname().nodename})" in said
    for rank in fork_ranks(2, train_words(output), tmp_path):
        code, said = rank.wait(60)
        assert code == 1 and f"{output} is in use by another run (process {owner.pid} on" in said, said
    os.kill(owner.pid, signal.SIGKILL)
    assert owner.wait()[0] == -signal.SIGKILL
    assert (output / OWNER).is_file(), "a killed process removes nothing"
    assert main(train_words(output, max_steps=1)) == 0
    assert not (output / OWNER).exists() and not (output / LOCK).exists()


def test_two_runs_may_follow_each_other_and_a_failed_one_leaves_no_folder(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert json.loads((tmp_path / "a" / "b" / OWNER).read_text())["process"] == os.getpid()
        with pytest.raises(RunError, match=f"process {os.getpid()} on"), locked(tmp_path / "a" / "b"):
            pass
    assert not (tmp_path / "a").exists()


def main_apart(words):
    """Run a command as a process on a machine of its own, with its own disk."""
    folder = Path(f"machine{os.environ['RANK']}")
    folder.mkdir()
    os.chdir(folder)
    socket.gethostname = lambda: folder.name
    return main(words)


def test_processes_that_do_not_share_their_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "VISIBLE_SECONDS", 0.1)
    for rank in fork_ranks(2, train_words("run"), tmp_path, main_apart):
        code, said = rank.wait(60)
        assert code == 1 and "Traceback" not in said, said
        assert f"process 1 on machine1 ({tmp_path}/machine1/run) cannot see the files of process 0 on machine0" in said
        assert "Set output_dir to a folder on a file system that all machines share" in said
    assert not list(tmp_path.glob("machine*/*")), "nothing was trained"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "none", folder]).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(small_disk, tmp_path, capsys):
    output = small_disk / "run"
    words = train_words(output, max_steps=8, save_steps=2)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert f"the disk of {output}" in said and "is full" in said and "Traceback" not in said
    assert "/checkpoint-2, is safe" in said or "no checkpoint was saved" in said.lower()
    assert not (output / ".incomplete").exists()
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0


def with_small_files(words, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return main(words)


def test_a_file_that_cannot_be_written_leaves_the_earlier_checkpoint_and_no_half_one(tmp_path, capsys):
    output = tmp_path / "run"
    assert main(train_words(output, max_steps=2, save_steps=2)) == 0
    sizes = {path.name: path.stat().st_size for path in (output / "checkpoint-2").iterdir()}
    assert sizes["model.safetensors"] < sizes["optimizer.pt"]
    words = [*train_words(output, max_steps=6, save_steps=2), "--resume_from_checkpoint", "true"]
    for name, cause in (
        ("model.safetensors", f"a file in {output} is larger than its file system or a limit allows"),
        ("optimizer.pt", f"PyTorch cannot write a file in {output}: check its disk"),
    ):
        code, said = Forked(with_small_files, tmp_path / "printed.txt", words, sizes[name] - 100).wait()
        assert code == 1 and "Traceback" not in said, said
        assert cause in said and f"checkpoint, {output / 'checkpoint-2'}, is safe" in said, said
        assert not (output / ".incomplete").exists() and not (output / "checkpoint-4").exists()


def test_a_read_only_folder_is_named(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for words in (train_words(small_disk / "run"), ["demo", "--output", str(small_disk / "demo")]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert str(small_disk) in said and "ead-only" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "the disk of x/y is full"),
        (OSError(errno.EFBIG, "File too large", "x/y"), "a file in x/y is larger than"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the machine is out of memory"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x/y"), "the disk quota of x/y is used up"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y cannot be written or read"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79 GiB"),
         "the GPU is out of memory (it tried to allocate 2.00 GiB): lower per_device_train_batch_size"),
        (MemoryError(), "the machine is out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"
                      " tried to allocate 1 bytes."), "the machine is out of memory (it tried to allocate 1 bytes)"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:3000"),
         "this process lost another process of the run (connection closed): see the messages of the others"),
        (DistBackendError("NCCL error: remote process exited or there was a network error"),
         "this process lost another process of the run (remote process exited)"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
         "PyTorch cannot write a file"),
        (Exception("No space left on device (os error 28)"), "is full"),  # of tokenizers
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "is full"),
    ],
)  # fmt: skip
def test_the_cause_and_what_is_safe_are_said(error, cause, tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    (folder / "manifest.json").touch()
    with pytest.raises(RunError) as raised, run_folder(tmp_path):
        raise error
    assert cause in str(raised.value) and f"{folder}, is safe" in str(raised.value)


def test_the_newest_complete_checkpoint_is_safe(tmp_path):
    for step in (4, 6, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-4" / "manifest.json").touch()
    (tmp_path / "checkpoint-6" / "manifest.json").mkdir()
    (tmp_path / "checkpoint-10").touch()
    assert f"the newest checkpoint, {tmp_path / 'checkpoint-4'}, is safe" in module.what_is_safe(tmp_path)


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "run"):
        raise ZeroDivisionError


def test_a_model_too_large_for_the_memory_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smol_hf.train.report_memory", lambda *_: "(estimate)")  # has tests of its own
    words = train_words(
        tmp_path / "run", text_config={"hidden_size": 2**20, "num_attention_heads": 2, "num_hidden_layers": 1}
    )
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "out of memory" in said and "(estimate)" in said and "Traceback" not in said


def test_a_killed_worker_is_named(tmp_path, capsys, monkeypatch):
    next_row, parent = Lane.next_row, os.getpid()

    def killed(lane):
        row = next_row(lane)
        if os.getpid() != parent and row.state["rows"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    monkeypatch.setattr(Lane, "next_row", killed)  # what the kernel does to a process that takes too much memory
    words = train_words(tmp_path / "run", max_steps=20, save_steps=1, dataloader_num_workers=2)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "a data worker process died" in said and "lower dataloader_num_workers" in said
    assert "checkpoint-" in said and "Traceback" not in said
    assert not Path(tmp_path / "run" / "checkpoint").exists()
    shutil.rmtree(tmp_path / "run")
