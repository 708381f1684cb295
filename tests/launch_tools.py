"""Programs in the place of those of a cluster, and environments with the tools of clusters (`make test-all`)."""

import os
import subprocess
import venv

import pytest
from doc_pages import ROOT

from smol_hf.evaluation.benchmarks.environment import site_folders

WITH_TOOLS = "SMOL_HF_LAUNCH" in os.environ
with_tools = pytest.mark.skipif(not WITH_TOOLS, reason="set SMOL_HF_LAUNCH=yes")
WRITE = 'printf "%s\\0" "$@" > "$(dirname "$0")/../$(basename "$0").words"\n'


def stubs(folder, *names, **programs):
    """Make a folder of programs for PATH.

    Those of `names` only write down their words. `programs`: the text of a bash script for a name.
    """
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, text in {**dict.fromkeys(names, WRITE), **programs}.items():
        (place / name).write_text(f"#!/bin/bash\n{text}")
        (place / name).chmod(0o755)
    return place


def words_of(folder, name):
    """The words of the last call of a stub."""
    return read_words(folder / f"{name}.words")


def read_words(path):
    return path.read_text(encoding="utf-8").split("\0")[:-1]


def interpreter(name, *packages, with_own=False):
    """The Python of an environment in `.cache/`. `with_own`: it also has the packages of this one."""
    folder = ROOT / ".cache" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        venv.create(folder, with_pip=True, clear=True)
        if with_own:
            (own,) = folder.glob("lib/python*/site-packages")
            lines = [f"import site; site.addsitedir({each!r})\n" for each in site_folders()]
            (own / "packages_of_smol_hf.pth").write_text("".join(lines))
        environment = {**os.environ, "DS_BUILD_OPS": "0"}
        command = [python, "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(command, check=True, env=environment)
        (folder / "complete").touch()
    return python
