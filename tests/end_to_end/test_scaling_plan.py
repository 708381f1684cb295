"""The plan for many GPUs: its arithmetic, for cases that can be computed by hand."""

import json
import runpy
import sys

import pytest
from doc_pages import ROOT
from processes import run_script

SCRIPT = ROOT / "benchmarks" / "scaling_plan.py"


@pytest.fixture(scope="module")
def plan():
    sys.path.insert(0, str(SCRIPT.parent))
    yield runpy.run_path(str(SCRIPT))
    sys.path.remove(str(SCRIPT.parent))


def test_collectives_take_the_time_of_the_bytes_that_cross_each_link(plan):
    links = plan["Links"](inside=100e9, between=10e9, latency=0)
    assert links.gather(8e9, 8) == pytest.approx(7 / 8 * 8e9 / 100e9)
    assert links.gather(8e9, 16) == pytest.approx(7 / 8 * 8e9 / 100e9 + 1 / 2 * 8e9 / 80e9)
    assert links.reduce(8e9, 16) == 2 * links.gather(8e9, 16)
    assert links.gather(8e9, 1) == 0


def test_what_hides_behind_the_computation_does_not_count(plan):
    links = plan["Links"](inside=100e9, between=10e9, latency=0)
    waits = plan["communication"]
    assert waits("DDP", 10**9, 40, 64, links, compute=1e6) == pytest.approx(links.reduce(25e6, 64))
    slow = waits("DDP", 10**9, 40, 64, links, compute=0.03)
    assert slow == pytest.approx(links.reduce(4e9, 64) - 0.02)
    assert waits("FSDP2", 10**9, 40, 64, links, compute=0) > slow / 2
    # Inside a machine, HSDP is FSDP2. On several, it sends less between them.
    assert waits("HSDP", 10**9, 40, 8, links, 0.1) == waits("FSDP2", 10**9, 40, 8, links, 0.1)
    assert waits("HSDP", 10**9, 40, 512, links, 0) < waits("FSDP2", 10**9, 40, 512, links, 0)


def test_the_slowest_of_many_processes_has_more_work_than_that_of_few(plan):
    work = plan["work_of_rows"](4096, 1.0, 500.0, samples=3000)
    assert work.mean() == pytest.approx(1)
    assert 1 < plan["slowest"](work, 8) < plan["slowest"](work, 64) <= work.max()


def test_lanes_are_shared_evenly_and_each_reads_a_row_group_of_its_own(plan):
    assert plan["lanes_for"](8, 2) == 16 and plan["lanes_for"](512, 8) == 4096 and plan["lanes_for"](3, 2) == 18
    assert plan["row_groups_of_a_step"](lanes=64, rows=100_000, gpus=8, samples_per_row=14) == 8
    dealt_singly = plan["row_groups_of_a_step"](lanes=64, rows=10_000, gpus=8, samples_per_row=14)  # 10 groups
    assert dealt_singly == 10


def test_the_script_prints_each_model_and_number_of_gpus():
    words = ["--models", "smolvlm2-256m", "--gpus", 8, 64, "--length", 512, "--tiles", 2, "--rows", 200_000]
    found = json.loads(run_script(SCRIPT, *words).splitlines()[-1])["plan"]
    assert [(each["gpus"], each["strategy"]) for each in found] == [
        (gpus, strategy) for gpus in (8, 64) for strategy in ("DDP", "FSDP2", "HSDP")
    ]
    assert all(0 < each["efficiency"] <= 1 for each in found)
