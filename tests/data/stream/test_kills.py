"""SIGKILL at random points of a mixed, shuffled, packed run, with other processes and workers after each."""

import json
import os
import subprocess
import sys
from pathlib import Path

from processes import run_script

ROOT = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("SMOL_HF_KILLS", "5"))  # `make test-all` asks for 20


def test_kills_lose_and_repeat_nothing():
    printed = run_script(ROOT / "benchmarks" / "resume_kills.py", "--kills", KILLS)
    figures = json.loads(printed.splitlines()[-1])
    assert figures["kills"] == KILLS and figures["identical"]
    assert figures["lost"] == figures["repeated"] == 0
    assert figures["samples"] > 100 * KILLS and figures["largest_state_of_a_lane"] <= 4096


RUN = """
import os, signal, time
from torch.utils.data import DataLoader
from smol_hf.data.stream.stream import obey_parent

rows = [b"0" * 10**6] * 100  # the pipe to the run holds far less
received = iter(obey_parent(DataLoader(rows, batch_size=None, num_workers=2)))
next(received)
time.sleep(1)  # for the workers to fill it
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_after_their_run_is_killed():
    """They share its output, which therefore closes when the last of them has ended."""
    done = subprocess.run([sys.executable, "-c", RUN], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -9
