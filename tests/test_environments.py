"""The environments in which the tests run: the pinned one, and those with other releases of the dependencies."""

import datetime
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import SLOW
from modeling import older_transformers
from modeling.older_transformers import PINNED, REPOSITORY, TRANSFORMERS

from smol_hf.publishing.model_card import TESTED_TRANSFORMERS

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def dry_run(target):
    """The commands that `make` would run. It really runs a line that names $(MAKE): that would exceed the limit."""
    command = ["make", "--dry-run", "--assume-old=.venv/.installed", target, "TORCH=torch==2.13.0"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    options = {"cwd": REPOSITORY, "env": outside, "check": True, "capture_output": True, "text": True, "timeout": 20}
    return subprocess.run(command, **options).stdout


def test_cards_name_the_releases_that_are_tested():
    assert (*TRANSFORMERS.values(), PINNED["transformers"]) == TESTED_TRANSFORMERS
    written = ", ".join(TESTED_TRANSFORMERS[:-1]) + f" and {TESTED_TRANSFORMERS[-1]}"
    assert f"transformers {written}" in (REPOSITORY / "README.md").read_text()


def test_one_command_covers_every_release():
    commands = dry_run("test-all")
    named = re.search(r'SMOL_HF_TRANSFORMERS="(.*?)" .*pytest .*tests/modeling/test_travelling_code.py', commands)
    assert named[1].split() == list(TRANSFORMERS)
    for name in ("newest", "lowest"):
        assert re.search(rf"python=\$\(.*older_transformers.py {name}\) && \$python -m pytest", commands)
    assert dry_run("test") in commands


def test_the_lowest_environment_has_every_declared_version(monkeypatch):
    monkeypatch.setenv("LOWEST_TORCH", "torch==2.8.0 --index-url https://example.org/cpu")
    torch, packages = older_transformers.installs("lowest")
    assert torch == ["torch==2.8.0", "--index-url", "https://example.org/cpu"]
    versions = dict(each.split("==") for each in packages if "==" in each)
    declared = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    assert versions.keys() | {"torch"} == {re.match(r"[\w-]+", each)[0] for each in declared}
    assert versions["transformers"] == "5.23" and versions["ruff"] == "0.17.5"


def test_only_torch_is_pinned_in_the_newest_environment(monkeypatch):
    monkeypatch.setenv("TORCH", "torch==2.13.0")
    monkeypatch.delenv("LOWEST_TORCH", raising=False)
    assert older_transformers.installs("newest") == [["torch==2.13.0"], ["--editable", f"{REPOSITORY}[test]"]]
    assert older_transformers.installs("lowest")[0] == ["torch==2.13.0"]


def test_the_newest_environment_is_built_again_on_another_day(tmp_path, monkeypatch):
    built = []

    def run(command):
        built.append(command)
        if "venv" in command:
            command[-1].mkdir()

    monkeypatch.setattr(older_transformers, "run", run)
    folder = tmp_path / "newest"
    for _ in range(2):
        older_transformers.interpreter("newest", folder)
    assert len(built) == 3
    marker = folder / "complete"
    today = datetime.date.today()
    marker.write_text(marker.read_text().replace(str(today), str(today - datetime.timedelta(days=1))))
    older_transformers.interpreter("newest", folder)
    assert len(built) == 6


def test_declared_and_checked_python_are_the_same():
    minimum = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert minimum == "3.11"  # transformers 5.23 supports no older one
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{minimum.replace('.', '')}"
    for job in yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text())["jobs"].values():
        assert job["steps"][1]["with"]["python-version"] == minimum


@pytest.mark.parametrize("job, targets", [("test", ["demo", "test"]), ("docs", ["docs"]), ("test-all", ["test-all"])])
def test_the_workflow_runs_the_documented_commands(job, targets):
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text())
    assert [step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step] == [f"make {t}" for t in targets]
    assert workflow[True].keys() >= {"push", "schedule"}  # YAML reads the key `on` as true
    lowest = re.search(r"torch==([\d.]+)\.0", workflow["env"]["LOWEST_TORCH"])[1]
    assert PROJECT["project"]["dependencies"][-3] == f"torch>={lowest}"


def test_the_documented_commands_exist():
    documented = set(re.findall(r"`make ([\w-]+)", (REPOSITORY / "CONTRIBUTING.md").read_text()))
    assert documented >= {"demo", "test", "test-fast", "test-all", "test-newest", "test-lowest", "test-transformers"}
    for target in documented:
        assert dry_run(target)


def test_every_slow_file_exists_and_each_area_has_fast_ones():
    tests = REPOSITORY / "tests"
    files = sorted(tests.rglob("test_*.py"))
    assert {path.stem for path in files} >= SLOW
    areas = {path.relative_to(tests).parts[0] for path in files}
    fast = {path.relative_to(tests).parts[0] for path in files if path.stem not in SLOW}
    assert areas - fast <= {"end_to_end", "estimate"}  # they train, or measure steps


def test_the_fast_command_leaves_the_slow_tests_out():
    assert '-m "not slow"' in dry_run("test-fast") and "slow" not in dry_run("test")
