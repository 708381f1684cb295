"""SIGKILL at random points of a mixed, shuffled, packed run, with other processes and workers after each."""

import json
import os
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
