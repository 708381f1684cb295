"""Interpreters with other releases of the dependencies: virtual environments, each built once and kept in `.cache/`.

    python tests/modeling/older_transformers.py newest

builds one by name, prints how its packages differ from those of this interpreter, and then the path of its `python`.
"""

import datetime
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text().split("\n")
PINNED = dict(line.split("==") for line in CONSTRAINTS if "==" in line)
# A transformers release of its own for checkpoints that travel: name of the environment → version.
TRANSFORMERS = {"4.57": "4.57.6", "5.23": "5.23.0"}
FOLDER = CACHE / "transformers-4.57"


def installs(name):
    """The `pip install` commands of an environment, as lists of arguments.

    Torch is first: a later install may then not replace it by another build. It is the Makefile's TORCH, or its
    LOWEST_TORCH for `lowest`.
    """
    torch = os.environ.get("TORCH") or f"torch=={PINNED['torch']}"
    if name in TRANSFORMERS:
        return [shlex.split(torch), [f"transformers=={TRANSFORMERS[name]}", "pillow", "numpy", "jinja2"]]
    package = ["--editable", f"{REPOSITORY}[test]"]
    if name == "lowest":
        return [shlex.split(os.environ.get("LOWEST_TORCH") or torch), [*package, *lowest_requirements()]]
    return [shlex.split(torch), package]


def lowest_requirements():
    """The lowest declared version of each dependency but torch, as `name==version`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lowest = [re.match(r"([\w-]+)[>=]=([\d.]+)", requirement).groups() for requirement in declared]
    return sorted({f"{name}=={version}" for name, version in lowest if name != "torch"})


def run(command):
    """Raises RuntimeError with the command's output when it fails."""
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{finished.stdout[-4000:]}")


def interpreter(name, folder=None):
    """The path of an environment's `python`; `name` is a key of TRANSFORMERS, `newest` or `lowest`.

    A build that was interrupted, or that has other versions, is removed and redone; `newest` is built once a day.
    """
    folder = folder or CACHE / (f"transformers-{name}" if name in TRANSFORMERS else name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    commands = installs(name)
    wanted = f"{sys.version.split()[0]} {commands}"
    if name == "newest":
        wanted += f" {datetime.date.today()}"
    python, marker = folder / "bin" / "python", folder / "complete"
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine build it once
        if not (marker.exists() and marker.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            run([sys.executable, "-m", "venv", folder])
            for packages in commands:
                run([python, "-m", "pip", "install", "--quiet", *packages])
            marker.write_text(wanted)  # last: a folder without it is not finished
    return python


def older_interpreter(folder=None, line="4.57"):
    """The `python` of an environment with this transformers release."""
    return interpreter(line, folder)


def lines():
    """The keys of TRANSFORMERS that this test run covers: 4.57, or all that SMOL_HF_TRANSFORMERS names."""
    return tuple(os.environ.get("SMOL_HF_TRANSFORMERS", "4.57").split())


def packages_of(python):
    """Name → version of what is installed for an interpreter."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
    return {package["name"]: package["version"] for package in json.loads(listed.stdout)}


def main(name):
    python = interpreter(name)
    here, there = packages_of(sys.executable), packages_of(python)
    for package in sorted(there.keys() & here.keys()):
        if there[package] != here[package]:
            sys.stderr.write(f"{name}: {package} {there[package]} instead of {here[package]}\n")
    sys.stdout.write(f"{python}\n")


if __name__ == "__main__":
    main(sys.argv[1])
