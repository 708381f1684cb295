"""SIGKILL at random points of a mixed, shuffled, packed run, with other processes and workers after each."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_twenty_kills_lose_and_repeat_nothing():
    command = [sys.executable, "benchmarks/resume_kills.py", "--kills", "20"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout.splitlines()[-1])
    assert figures["kills"] == 20 and figures["identical"]
    assert figures["lost"] == figures["repeated"] == 0
    assert figures["samples"] > 2000 and figures["largest_state_of_a_lane"] <= 4096
