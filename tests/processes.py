"""Commands in this process, and in forked ones that tests may kill. A launch costs seconds, a fork nothing."""

import contextlib
import io
import multiprocessing
import os
import runpy
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from smol_hf.commands.main import main


def call(words):
    """Run the command here. Returns its exit status and what it printed, as `subprocess.run` does."""
    printed, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        code = main(list(map(str, words)))
    return SimpleNamespace(returncode=code, stdout=printed.getvalue(), stderr=complained.getvalue())


class Forked:
    """A function in a forked process with its own process group. What it prints goes to a file; it may return its
    exit status."""

    def __init__(self, function, printed, *arguments, **environment):
        self.printed = Path(printed)
        # By multiprocessing, so that the process has its own children, exit handlers and exit status.
        self.process = multiprocessing.get_context("fork").Process(
            target=run_apart, args=(function, self.printed, arguments, environment)
        )
        self.process.start()

    @property
    def pid(self):
        return self.process.pid

    def wait(self, timeout=200):
        """Wait for the end. Returns the exit status (negative: the number of a signal) and what was printed."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"not finished after {timeout} seconds:\n{self.printed.read_text()}")
        return self.process.exitcode, self.printed.read_text()

    def wait_for(self, text, timeout=120):
        """Wait until the process has printed the text."""
        deadline = time.monotonic() + timeout
        while not (self.printed.exists() and text in self.printed.read_text()):
            assert self.process.is_alive() and time.monotonic() < deadline, "it was not printed"
            time.sleep(0.005)


def run_apart(function, printed, arguments, environment):
    os.setsid()
    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    os.environ.update(environment)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    sys.exit(function(*arguments))


def fork_command(words, printed, **environment):
    """Start a command of `smol-hf` in a forked process."""
    return Forked(main, printed, list(map(str, words)), **environment)


def run_script(path, *arguments):
    """Run a Python program here as its own main module. Returns what it printed."""
    printed, before = io.StringIO(), (sys.argv, sys.path)
    sys.argv, sys.path = [str(path), *map(str, arguments)], [str(Path(path).parent), *sys.path]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path = before
    return printed.getvalue()


def fork_ranks(count, words, folder, function=main):
    """Run the command in `count` processes with the variables that torchrun sets. Returns them, not yet finished."""
    words = list(map(str, words))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Forked(function, folder / f"rank{each['RANK']}.txt", words, **shared, **each) for each in own]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
