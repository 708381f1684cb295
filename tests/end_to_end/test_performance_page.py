"""The page of figures: from the results that are there."""

import json
import runpy

from doc_pages import ROOT
from processes import run_script

SCRIPT = ROOT / "benchmarks" / "run_all.py"


def test_a_benchmark_is_run_and_the_page_shows_it_and_names_the_others_as_not_measured(tmp_path):
    run_script(SCRIPT, "--only", "packing", "--results", tmp_path / "results", "--docs", tmp_path / "docs")
    page = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "results" / "packing.json").read_text(encoding="utf-8"))
    assert f"| filled, ours | {kept['result']['fill']:.3g} |" in page and kept["result"]["fill"] > 0.95
    assert page.count("Not measured.") == page.count("\n## ") - 2  # packing, and the machine
    assert f"| torch | {kept['machine']['torch']} |" in page
    assert (tmp_path / "docs" / "images" / "performance.png").stat().st_size > 1000


def test_each_benchmark_is_a_script_and_its_ratios_have_names_of_their_own():
    benchmarks = runpy.run_path(str(SCRIPT))["BENCHMARKS"]
    names = [name for each in benchmarks for name in each.ratios]
    assert all((ROOT / "benchmarks" / f"{each.script}.py").is_file() for each in benchmarks)
    assert len(names) == len(set(names))
