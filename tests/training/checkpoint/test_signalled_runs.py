"""SIGTERM and SIGUSR1 at random moments, to the launcher, to one process or to all: nothing is lost."""

import json
import os

import pytest
from doc_pages import ROOT
from processes import run_script

# `make test-all` asks for each combination and 20 signals.
SIGNALS = int(os.environ.get("SMOL_HF_KILLS", "2"))
RUNS = [("USR1", 2, 0)]
if "SMOL_HF_KILLS" in os.environ:
    RUNS += [("USR1", 2, 2)]
    RUNS += [("TERM", processes, workers) for processes in (1, 2) for workers in (0, 2)]


@pytest.mark.parametrize(("number", "processes", "workers"), RUNS)
def test_signals_at_random_moments_lose_and_repeat_nothing(number, processes, workers):
    options = ["--signal", number, "--processes", processes, "--workers", workers]
    printed = run_script(ROOT / "benchmarks" / "resume_signals.py", "--signals", SIGNALS, *options)
    figures = json.loads(printed.splitlines()[-1])
    assert figures["signals"] == SIGNALS, figures
    assert figures["identical"] and figures["losses_equal"] and figures["lost"] == figures["repeated"] == 0, figures
    assert figures["tracebacks"] == 0 and set(figures["exit_codes"]) <= {"0", "138", "143", "killed"}, figures
