"""The page of figures: from the results that are there."""

import json
import os
import runpy
import subprocess
import sys

import pytest
from doc_pages import ROOT
from processes import run_script

SCRIPT = ROOT / "benchmarks" / "run_all.py"
SMALL = ["--samples", 4, "--batch-size", 4, "--rounds", 1, "--threads", 1]
# Benchmarks that no other page names, on tiny inputs. `make test-all` asks for each.
TINY = {
    "cached_features": SMALL,
    "ablations": [*SMALL, "--only", "packing", "checkpointing"],  # each takes two processes
}
if "SMOL_HF_KILLS" in os.environ:
    TINY |= {
        "mixture_step": SMALL,
        "generate": ["--new-tokens", 2, "--pairs", 1, "--threads", 1],
        "scaling": ["--quick", "--repeats", 1],
        "long_run": ["--steps", 8, "--workers", 0],
        "startup": ["--rounds", 1],
    }


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


def test_a_benchmark_is_run_and_the_page_shows_it_and_names_the_others_as_not_measured(tmp_path):
    run_script(SCRIPT, "--only", "packing", "--results", tmp_path / "results", "--docs", tmp_path / "docs")
    page = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "results" / "packing.json").read_text(encoding="utf-8"))
    assert f"| filled, ours | {kept['result']['fill']:.3g} |" in page and kept["result"]["fill"] > 0.95
    assert page.count("Not measured.") == page.count("\n## ") - 2  # packing, and the machine
    assert f"| torch | {kept['machine']['torch']} |" in page
    assert (tmp_path / "docs" / "images" / "performance.png").stat().st_size > 1000


def test_each_benchmark_is_a_script_and_its_ratios_have_names_of_their_own(script):
    benchmarks = script["BENCHMARKS"]
    names = [name for each in benchmarks for name in each.ratios]
    assert all((ROOT / "benchmarks" / f"{each.script}.py").is_file() for each in benchmarks)
    assert len(names) == len(set(names)) and len({each.key for each in benchmarks}) == len(benchmarks)


@pytest.mark.parametrize("key", TINY)
def test_a_benchmark_has_the_figures_of_the_page(key, script):
    (benchmark,) = [each for each in script["BENCHMARKS"] if each.key == key]
    printed = run_script(ROOT / "benchmarks" / f"{benchmark.script}.py", *benchmark.words, *TINY[key])
    found = json.loads(printed.splitlines()[-1])
    paths = [*benchmark.ratios.values(), *benchmark.figures.values()]
    asked = [path for path in paths if key != "ablations" or path.partition(".")[0] in TINY[key]]
    assert asked
    for path in asked:
        assert isinstance(script["entry"](found, path), (int, float)), path


def test_a_folder_that_is_no_clone_of_nanovlm_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_script(ROOT / "benchmarks" / "nanovlm_step.py", "--nanovlm", tmp_path)
    assert "is not a clone of nanoVLM" in capsys.readouterr().err


def test_a_count_below_1_is_refused_in_one_sentence():
    refused = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "packing.py", "--pool", "0"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2 and refused.stderr.endswith("argument --pool: 0 is not above 0\n")
